"""What is written down: ids, events, entries, messages and their bytes.

This package is the bottom layer. It imports nothing here, so that a light install of the SDK
does not need the Avro library, which only ``stepfold_schemas.codec`` imports.
"""
