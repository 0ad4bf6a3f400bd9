"""Private data: readers, row numbers, and the users of the rows."""
