"""The command lines: arguments in, exit codes out."""

from flax_vae.console import degrade_output

degrade_output()  # before the help is printed, whichever program prints it
