"""What made the weights that ship in this repository. Nothing at run time imports it."""
