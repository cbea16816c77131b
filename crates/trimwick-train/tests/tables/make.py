"""The Parquet files beside this script, as PyPI pyarrow writes data sets.

    pip install pyarrow==26.0.1
    python make.py
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
TEXTS = ["First document.\nTwo lines.", "", "Zweites: ä, 漢字, 🙂", 'quotes " and \\ backslashes', "the last"]

table = pa.table({"id": pa.array(range(5), pa.int64()), "text": TEXTS, "score": pa.array([0.5, None, 1.5, 2.0, -1.0])})
for codec in ["none", "snappy", "gzip", "zstd", "lz4"]:
    pq.write_table(table, HERE / f"texts_{codec}.parquet", compression=codec, row_group_size=2)

say = lambda *turns: [{"role": role, "content": content} for role, content in turns]
chats = [
    say(("user", "ab"), ("assistant", "cde")),
    say(("system", "f"), ("user", "gh"), ("assistant", "i"), ("user", "jk"), ("assistant", "l")),
]
pq.write_table(pa.table({"messages": chats, "source": ["a", "b"]}), HERE / "chats.parquet", compression="snappy")

unmarked = pa.table({"text": pa.array([text.encode() for text in TEXTS], pa.binary())})
pq.write_table(unmarked, HERE / "unmarked.parquet", compression="snappy")
pq.write_table(pa.table({"text": pa.array([b"one", b"\xff\xfe"], pa.binary())}), HERE / "bytes.parquet")
twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
pq.write_table(twice, HERE / "twice.parquet", compression="none")

nulls = pa.table({"text": pa.array(["one", None], pa.string())})
pq.write_table(nulls, HERE / "null.parquet", compression="snappy")
