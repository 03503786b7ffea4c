"""The command line: one file for each command, with its flags; exit codes in `exits.py`.

The docstrings of flags are their help texts. They break lines between sentences only, because tyro keeps the breaks.
The help of a command ends with the examples in the docstring of its module.
"""
