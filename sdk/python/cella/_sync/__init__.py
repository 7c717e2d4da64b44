# Made from cella/_async/__init__.py by make_sync.py: change that file.
