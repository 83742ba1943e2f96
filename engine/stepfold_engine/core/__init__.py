"""The pure core: a partition's state, decisions and their effect. No I/O, no clock."""
