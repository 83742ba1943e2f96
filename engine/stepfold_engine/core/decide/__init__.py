"""decide: input + state + now → the entries of decisions. Pure; nothing here changes the state.

One module for each kind of input. An empty list of entries means: nothing follows from it.
"""
