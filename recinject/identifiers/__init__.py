"""How an item is named in text: a stored table from item number to text."""
