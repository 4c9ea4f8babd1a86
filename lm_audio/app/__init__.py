"""The web page: Create, Continue, Inpaint and Listen in a browser."""
