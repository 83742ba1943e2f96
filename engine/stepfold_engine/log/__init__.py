"""The log: its port (``base``) and its adapters, one module each."""
