"""The HTTP interface: the protocol's words translated into ours and back. It holds no logic."""
