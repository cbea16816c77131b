"""Writes small GGUF vocabularies and the token ids that reference tokenizers give for difficult texts.

    pip install gguf==0.19.0 tokenizers==0.23.3 sentencepiece==0.2.3
    python make_tokenizer_golden.py            # writes tokenizers/*.gguf and tokenizers/golden.json beside itself

Byte-level BPE: each vocabulary is trained with the Python tokenizers library (whose patterns run on Oniguruma), with the
pre-tokenizer of the tokenizer.json that the GGUF name stands for; the ids are its own.
SentencePiece: a BPE model with byte fallback, trained and applied by the sentencepiece library.
The GGUF files are written by the gguf package.
"""
import io, json, pathlib
import gguf
import sentencepiece as spm
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

OUT = pathlib.Path(__file__).parent / "tokenizers"
OUT.mkdir(exist_ok=True)

PROSE = (pathlib.Path(__file__).parent / "prose.txt").read_text()
MORE = """
It's 1984, we've 12,345.67 reasons; they'll say I'M SURE he'd don't can't WON'T 'tis the '90s. U.S.A. e.g. co-operate
def f(x):\n    if x >= 10:\n\treturn x**2  # comment\n\n\n    y = {"a": [1, 2, 3]}\r\nCamelCaseWords andHTMLParser
naïve café Zürich façade El Niño Ελληνικά кириллица עברית العربية हिन्दी 日本語テキスト 中文字符 한국어 ﬁ ligature
e\u0301 combining A\u030a 😀👍🏽👩‍👩‍👧 ½ ² Ⅷ ٣٤٥ １２３ \u00a0\u2003\u3000 \u200b zero-width
https://example.com/a/b?c=d&e=f user@example.com $1,000 + 50% = €1.500 ~/path/to_file.txt <tag attr='v'>
"""
TEXTS = [
    "", " ", "  ", "a", " a", "a ", "\n", "\n\n", " \n", "\n ", "\t", "   a", "a   b", "a \n b", "a\n\n\nb", "a  \n  b\n",
    "trailing spaces   ", "trailing newline\n", "\r\n", "a\r\nb", "  \r\n  x", "\u00a0x", "x\u3000y", "a\u200bb",
    "Hello world", "Hello, world!", "hello HELLO Hello", "I'm you're he'll we've they'd it's don't", "I'M YOU'RE IT'S",
    "'s 't 're", "''s", "it''s", "o'clock 'tis", "1", "12", "123", "1234", "12345678901", "3.14159", "1,234,567", "a1b22c333",
    "x=1", "½ ² Ⅷ ٣٤٥ １２３", "naïve café", "e\u0301 A\u030a \u00e9 \u00c5", "日本語テキスト", "中文 字符", "한국어 텍스트", "кириллица",
    "Ελληνικά", "עברית العربية", "हिन्दी", "😀👍🏽", "👩‍👩‍👧 family", "ﬁ", "CamelCaseWords", "HTMLParser", "snake_case_name", "a/b/c",
    "!!!", "?!?!", "... --- ***", "(a)[b]{c}", "$x+y=z^2~|`", "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ", "<s>", "</s>x",
    "<0x41>", "▁", "a▁b", "\u0000", "\x07\x1b[31m", "\ufeff", "\U0010ffff", "a" * 50, " " * 30, "ab " * 20, "\n" * 10,
    "word\n    indented\n\ttabbed\n", "def f(x):\n    return x**2  # comment\n\n\n", PROSE[:600], PROSE[900:1300], MORE,
]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def split(*patterns):
    steps = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE = {
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "llama-bpe": split(LLAMA3),
    "qwen2": split(QWEN2),
    "tekken": split(TEKKEN),
    "default": split(r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
}
IGNORE_MERGES = {"llama-bpe", "tekken"}


def writer(name):
    w = gguf.GGUFWriter(OUT / f"{name}.gguf", "llama")
    w.add_string("tokenizer.golden", name)
    return w


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def bpe(name):
    t = Tokenizer(models.BPE(ignore_merges=name in IGNORE_MERGES))
    t.pre_tokenizer = PRE[name]
    t.decoder = decoders.ByteLevel()
    if name == "qwen2":
        t.normalizer = normalizers.NFC()
    specials = ["<|endoftext|>", "<|im_start|>"]
    t.train_from_iterator([PROSE, MORE, MORE], trainers.BpeTrainer(
        vocab_size=700, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    made = json.loads(t.to_str())
    vocab = sorted(made["model"]["vocab"].items(), key=lambda kv: kv[1])
    assert [i for _, i in vocab] == list(range(len(vocab)))
    w = writer(name)
    w.add_tokenizer_model("gpt2")
    if name != "default":  # llama.cpp's fallback for files without the key
        w.add_tokenizer_pre(name)
    w.add_token_list([v for v, _ in vocab])
    w.add_token_types([3 if v in specials else 1 for v, _ in vocab])
    w.add_token_merges([" ".join(m) for m in made["model"]["merges"]])
    w.add_bos_token_id(1)
    w.add_eos_token_id(0)
    finish(w)
    return [t.encode(x, add_special_tokens=False).ids for x in TEXTS]


def sentencepiece():
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([l for l in (PROSE + MORE).splitlines() if l]), model_writer=model, model_type="bpe",
        vocab_size=900, byte_fallback=True, character_coverage=0.999, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True, add_dummy_prefix=True,
        user_defined_symbols=["<mask>"], minloglevel=2)
    sp = spm.SentencePieceProcessor(model_proto=model.getvalue())
    n = sp.get_piece_size()
    kinds = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else
             4 if sp.id_to_piece(i) == "<mask>" else 1 for i in range(n)]
    w = writer("spm")
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list([sp.id_to_piece(i) for i in range(n)])
    w.add_token_scores([sp.get_score(i) for i in range(n)])
    w.add_token_types(kinds)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    finish(w)
    return [None if "<s>" in x or "</s>" in x else sp.encode(x) for x in TEXTS]


golden = {"texts": TEXTS, "ids": {name: bpe(name) for name in PRE} | {"spm": sentencepiece()}}
(OUT / "golden.json").write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n")
