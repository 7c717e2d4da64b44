"""The client, once. ``cella._sync`` is made from these files by sdk/python/make_sync.py; only native.py is written twice."""
