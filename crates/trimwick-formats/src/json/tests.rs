use super::*;

fn reader(text: &str) -> Reader<'_> {
    Reader::new(Path::new("f.json"), "document", text.as_bytes(), 100).unwrap()
}

#[test]
fn a_document_is_handed_out_token_by_token() {
    let mut r = reader(" { \"a\" : [1, 20,18446744073709551615] ,\"\":{},\"s\":\"x\" } \n");
    r.begin_object().unwrap();
    assert_eq!(r.next_key().unwrap().as_deref(), Some("a"));
    r.begin_array().unwrap();
    let mut items = Vec::new();
    while r.next_item().unwrap() {
        items.push(r.unsigned().unwrap());
    }
    assert_eq!(items, [1, 20, u64::MAX]);
    assert_eq!(r.next_key().unwrap().as_deref(), Some(""));
    r.skip().unwrap();
    assert_eq!(r.next_key().unwrap().as_deref(), Some("s"));
    assert_eq!(r.string("a string").unwrap(), "x");
    assert_eq!(r.next_key().unwrap(), None);
    r.end().unwrap();
}

#[test]
fn escapes_are_decoded() {
    let mut r = reader(r#""a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00z""#);
    assert_eq!(r.string("a string").unwrap(), "a\"\\/\u{8}\u{c}\n\r\té😀z");
}

#[test]
fn faults_name_byte_path_and_both_sides() {
    let value = |text: &str| -> Result<()> {
        let mut r = reader(text);
        r.begin_object()?;
        while let Some(key) = r.next_key()? {
            if key == "n" { r.unsigned().map(drop)? } else { r.skip()? }
        }
        r.end()
    };
    let depth = "[".repeat(5000);
    for (text, want) in [
        ("", "byte 100: document: expected an object, found the end of the document"),
        ("null", "byte 100: document: expected an object, found \"null\""),
        ("[]", "byte 100: document: expected an object, found an array"),
        ("{", "byte 101: document: expected a key in quotes, found the end of the document"),
        ("{,", "byte 101: document: expected a key in quotes, found \",\""),
        ("{\"n\":1,}", "byte 107: document[\"n\"]: expected a key in quotes, found \"}\""),
        ("{\"n\" 1}", "byte 105: document[\"n\"]: expected ':', found \"1\""),
        ("{\"n\":-1}", "byte 105: document[\"n\"]: expected a whole number from 0 to 2^64 - 1, found \"-1\""),
        ("{\"n\":01}", "byte 105: document[\"n\"]: expected a whole number from 0 to 2^64 - 1, found \"01\""),
        (
            "{\"n\":1.0}",
            "byte 105: document[\"n\"]: expected a whole number from 0 to 2^64 - 1, found \"1.0\"",
        ),
        (
            "{\"n\":18446744073709551616}",
            "byte 105: document[\"n\"]: expected a whole number from 0 to 2^64 - 1, found \"18446744073709551616\"",
        ),
        (
            "{\"n\":\"1\"}",
            "byte 105: document[\"n\"]: expected a whole number from 0 to 2^64 - 1, found the string \"1\"",
        ),
        ("{\"a\":[1,]}", "byte 108: document[\"a\"][1]: expected a JSON value, found \"]\""),
        ("{\"a\":nul}", "byte 105: document[\"a\"]: expected a JSON value, found \"nul\""),
        (
            "{\"a\":\"\\ud800\"}",
            "byte 106: document[\"a\"]: expected a valid escape, found \"\\\\ud800\\\"}\"",
        ),
        ("{\"a\":\"\\u12", "byte 106: document[\"a\"]: expected a valid escape, found \"\\\\u12\""),
        (
            "{\"a\":\"x",
            "byte 105: document[\"a\"]: expected a string that ends, found the end of the document",
        ),
        (
            "{\"a\":\"\n\"}",
            "byte 106: document[\"a\"]: expected control characters escaped, found the byte 0x0a",
        ),
        ("{} {}", "byte 103: document: expected only spaces after the object, found an object"),
        (
            &format!("{{\"a\":{depth}"),
            "expected at most 64 levels of nesting, found an array deeper than that",
        ),
    ] {
        let message = value(text).unwrap_err().to_string();
        assert!(message.contains(want), "{text}\n got: {message}\nwant: {want}");
    }
}

#[test]
fn numbers_are_those_of_json() {
    for good in ["0", "-0", "10", "1.5", "-1e9", "1E+3", "0.0e-0"] {
        assert!(is_number(good), "{good}");
    }
    for bad in ["", "-", "+1", "01", "1.", ".5", "1e", "inf", "nan", "NaN", "0x1", "1.2.3", "1e2e3"] {
        assert!(!is_number(bad), "{bad}");
    }
}

#[test]
fn bytes_that_are_not_utf8_and_a_byte_order_mark_are_refused() {
    let fault = |bytes: &[u8]| Reader::new(Path::new("f"), "header", bytes, 8).err().unwrap().to_string();
    assert_eq!(fault(b"{\"a\xff"), "f: byte 11: header: expected UTF-8, found the byte 0xff");
    assert_eq!(
        fault(b"\xef\xbb\xbf{}"),
        "f: byte 8: header: expected JSON without a byte order mark, found the mark U+FEFF"
    );
}
