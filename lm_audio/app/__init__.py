"""The web page: Create, Continue, Inpaint and History in a browser."""
