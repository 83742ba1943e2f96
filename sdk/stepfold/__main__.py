"""``python -m stepfold …``: the command ``stepfold``, as a module that debuggers can start."""

from stepfold.command import main

if __name__ == "__main__":
    main()
