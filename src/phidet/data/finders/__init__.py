"""How each layout is recognised in a folder: by what its files hold, not by what they are called."""
