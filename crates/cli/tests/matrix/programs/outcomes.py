# What each of Python's own tests came to: its name and a word, a line each, from the report that `-m test --junit-xml FILE` writes.
import sys
import xml.etree.ElementTree as tree

for case in tree.parse(sys.argv[1]).iter("testcase"):
    outcome = "ok"
    for child in case:
        if child.tag in ("skipped", "failure", "error"):
            outcome = child.tag
    print(case.get("name"), outcome)
