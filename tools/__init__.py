"""What concerns the machine: versions of the dependencies, the processor's instructions, a browser,
vulnerabilities, load, fuzzing.
"""
