"""`make bench`: the speed targets of the project; each module measures one room and returns rows of a table."""
