"""``python -m bench peers``: the test suites of other packages, with our roots in the place of theirs."""
