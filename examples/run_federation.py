"""A whole federation from Python: the built-in digits, two of ten workers mount ALIE."""

import sys

import ostraka

run = ostraka.run(
    n=10,
    f=2,
    attack="alie",
    rule="multi-krum",
    pre=["nnm"],
    rounds=60,
    out=sys.argv[1] if len(sys.argv) > 1 else None,
)
for record in run.history:
    if "accuracy" in record and record["round"] % 20 == 0:
        print(f"round {record['round']}: {100 * record['accuracy']:.1f} %")
print("parameters", sum(p.numel() for p in run.model.parameters()))
print("digest", run.summary["model_digest"])
print("report", run.summary["report"])
