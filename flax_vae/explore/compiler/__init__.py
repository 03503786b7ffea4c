"""A compiler from jaxprs to the instructions that the page's engine runs."""
