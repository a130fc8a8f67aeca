"""Verifies the messages *.eml of a folder with dkimpy and prints one line of JSON for each.

Key records come from dns.json in that folder, an object of texts by name. A line has the message's file, what became of
each DKIM-Signature from the top, and of the ARC chain.
"""
import glob
import json
import logging
import os
import sys

import dkim

logging.disable(logging.CRITICAL)
folder = sys.argv[1]
with open(os.path.join(folder, "dns.json")) as f:
    zone = json.load(f)


def lookup(name, timeout=5):
    text = zone.get(name.decode("latin-1").rstrip(".").lower())
    return None if text is None else text.encode("latin-1")


def tag(fields, name):
    return b"".join((fields or {}).get(name, b"").split()).decode("latin-1")


for path in sorted(glob.glob(os.path.join(folder, "*.eml"))):
    with open(path, "rb") as f:
        octets = f.read()
    line = {"file": os.path.basename(path), "dkim": [], "arc": "", "arc_why": ""}
    # Where dkimpy raises what is none of its own exceptions, that is its answer.
    try:
        fields = [name.lower() for name, _ in dkim.DKIM(octets).headers]
        for i in range(fields.count(b"dkim-signature")):
            d, result, why = dkim.DKIM(octets), "fail", ""
            try:
                if d.verify(idx=i, dnsfunc=lookup):
                    result = "pass"
            except Exception as e:
                why = repr(e)
            s = getattr(d, "signature_fields", None)
            line["dkim"].append({"d": tag(s, b"d"), "s": tag(s, b"s"), "b": tag(s, b"b"), "result": result, "why": why})
    except Exception as e:
        line["dkim_why"] = repr(e)
    try:
        cv, _, why = dkim.ARC(octets).verify(dnsfunc=lookup)
        line["arc"], line["arc_why"] = (cv or b"fail").decode(), str(why)
    except Exception as e:
        line["arc"], line["arc_why"] = "fail", repr(e)
    print(json.dumps(line))
