"""Known vulnerabilities of the installed packages and of those that requirements-book.txt pins.

python -m tools.audit PIP_AUDIT

Exit status 0: every package was looked up and none is listed. 1: some are, and are named. 2: some could not
be looked up, or none, because no advisory service answers; the output says so.
"""

import json
import re
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OURS = {"llmcore"}


def pins(text: str) -> set[str]:
    """name==version of each package of a requirements file.

    >>> second = "colorama==0.4.6 ; sys_platform == 'win32' --hash=sha256:cd"
    >>> sorted(pins(f"regex==1.2 --hash=sha256:ab\\n{second}"))
    ['colorama==0.4.6', 'regex==1.2']
    """
    found = re.findall(r"^([\w.-]+)==([\w.+!-]+)", text, re.MULTILINE)
    return {f"{name.lower()}=={version}" for name, version in found}


def installed() -> set[str]:
    """name==version of each package of this environment.

    2.13.0+cpu is one build of 2.13.0, and advisories name the version without the build.
    """
    found = {(d.metadata["Name"].lower(), d.version.split("+")[0]) for d in distributions()}
    return {f"{name}=={version}" for name, version in found if name not in OURS}


def verdict(rows: list[dict[str, Any]]) -> tuple[int, str]:
    """Exit status and text for the rows of pip-audit, each with name, version and vulns, or a skip_reason.

    >>> verdict([{"name": "a", "version": "1", "vulns": []}])
    (0, '1 package audited: no known vulnerability')
    >>> bad = {"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}
    >>> print(*verdict([bad, {"name": "b"}]))
    1 a 1: X-1, mended in 2
    Not audited, because the service does not know them: b
    1 package audited: 1 has known vulnerabilities
    >>> verdict([{"name": "b", "skip_reason": "?"}])[0]
    2
    """
    looked = [r for r in rows if "vulns" in r]
    if not looked:
        why = "no advisory service answers from here. Run make audit where there is a network."
        return 2, f"Nothing was audited: {why}"
    lines = []
    for r in looked:
        for v in r["vulns"]:
            fixed = f"mended in {', '.join(v['fix_versions'])}" if v["fix_versions"] else "not mended yet"
            lines.append(f"{r['name']} {r['version']}: {v['id']}, {fixed}")
    skipped = sorted(r["name"] for r in rows if "vulns" not in r)
    if skipped:
        lines.append(f"Not audited, because the service does not know them: {', '.join(skipped)}")
    bad = sum(bool(r["vulns"]) for r in looked)
    count = f"{len(looked)} package{'s' if len(looked) > 1 else ''} audited"
    have = f"{bad} {'has' if bad == 1 else 'have'} known vulnerabilities"
    lines.append(f"{count}: {have if bad else 'no known vulnerability'}")
    return (1 if bad else 2 if skipped else 0), "\n".join(lines)


def main(pip_audit: str) -> int:
    wanted = installed() | pins((ROOT / "requirements-book.txt").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as name:
        listed = Path(name) / "requirements.txt"
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for part in _one_version_each(wanted):
            listed.write_text("\n".join(sorted(part)) + "\n", encoding="utf-8")
            command = [pip_audit, "-r", str(listed), "--no-deps", "--disable-pip", "-f", "json"]
            command += ["--progress-spinner", "off"]
            done = subprocess.run(command, capture_output=True, text=True)
            try:
                found = json.loads(done.stdout)["dependencies"]
            except (ValueError, KeyError):
                said = [line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
                print(
                    f"Nothing was audited: pip-audit ended with {said[-1].strip()!r}. "
                    "Run make audit where there is a network."
                )
                return 2
            rows |= {(r["name"], r.get("version", "")): r for r in found}
    status, text = verdict(list(rows.values()))
    print(text)
    return status


def _one_version_each(wanted: set[str]) -> list[set[str]]:
    """The pins in sets without two versions of a package, since a requirements file may hold only one."""
    first: dict[str, str] = {}
    for pin in sorted(wanted):
        first.setdefault(pin.split("==")[0], pin)
    rest = wanted - set(first.values())
    return [set(first.values()), *(_one_version_each(rest) if rest else [])]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
