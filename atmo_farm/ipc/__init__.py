"""How the processes of a farm reach each other: shared memory for numbers, socketpairs for words."""
