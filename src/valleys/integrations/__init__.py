"""One module for each tool or package that needs a line of ours; each imports it where it is used."""
