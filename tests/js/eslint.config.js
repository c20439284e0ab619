// What the linter asks of the widgets' JavaScript and of its tests, beside what the type checker does.
import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  {
    languageOptions: { ecmaVersion: 2024, sourceType: "module", globals: globals.browser },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      eqeqeq: "error",
      "max-len": ["error", { code: 120, ignoreUrls: true }],
      "no-var": "error",
      "prefer-const": "error",
      "no-shadow": "error",
      "no-restricted-properties": ["error",
        { property: "innerHTML", message: "text is never markup: make elements with h" },
        { property: "outerHTML", message: "text is never markup: make elements with h" },
        { property: "insertAdjacentHTML", message: "text is never markup: make elements with h" }],
    },
  },
  { files: ["**/*.test.js", "**/eslint.config.js"], languageOptions: { globals: globals.node } },
];
