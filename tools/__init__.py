"""Tools for the machine: versions, the processor's instructions, a browser, audit, load, fuzzing."""
