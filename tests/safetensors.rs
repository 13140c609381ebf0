//! Single safetensors files: every numbered case of a bad one, and what good ones give.

mod common;

use common::{
    assert_error,
    models::{Folder, raw_safetensors, serialize},
};
use probeprune::{
    Result,
    checkpoint::{Checkpoint, Dtype, Tensor, open_file, read_tensor_file},
};

const INTERRUPTED: &str = "Was the download interrupted?";
const UNSOUND: &str = "was not written by a sound safetensors tool: download or convert it again.";

/// Opens a folder with `bytes` as model.safetensors, in both ways, which must agree.
fn open(bytes: impl AsRef<[u8]>) -> Result<Checkpoint> {
    let folder = Folder::empty();
    folder.write("model.safetensors", bytes);
    let mapped = Checkpoint::open(&folder.source(), true);
    let read = Checkpoint::open(&folder.source(), false);
    match (&mapped, &read) {
        (Ok(mapped), Ok(read)) => assert_eq!(mapped.fingerprint(), read.fingerprint()),
        (Err(mapped), Err(read)) => assert_eq!(mapped.to_string(), read.to_string()),
        _ => panic!("mapped {mapped:?}, read {read:?}"),
    }
    read
}

/// Opens a file with this header and `data` bytes of zeros.
fn open_header(header: impl AsRef<[u8]>, data: usize) -> Result<Checkpoint> {
    open(raw_safetensors(header, &vec![0; data]))
}

/// Opens a file whose only tensor, `w`, has these JSON values.
fn open_tensor(dtype: &str, shape: &str, offsets: &str, data: usize) -> Result<Checkpoint> {
    let header = format!(r#"{{"w":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}"#);
    open_header(header, data)
}

#[test]
fn case_01_empty_or_seven_bytes() {
    let expected = "model.safetensors: size: expected at least 8 bytes (the header's length), got";
    for length in [0, 7] {
        assert_error(open(vec![0; length]), &[expected, &format!("{length} bytes. The file is damaged")]);
    }
}

#[test]
fn case_02_huge_header_length() {
    for length in [u64::MAX, 100_000_001] {
        let got = format!("expected at most 100000000 bytes, got {length} bytes. ");
        let parts = ["model.safetensors: header length:", &got, "download or convert it again"];
        assert_error(open(length.to_le_bytes()), &parts);
    }
}

#[test]
fn case_03_header_longer_than_the_file() {
    let parts = [
        "header length: expected at most the 10 bytes that follow it, got 11 bytes.",
        "cut off",
        "Download it again",
    ];
    assert_error(open([&11u64.to_le_bytes()[..], &[b' '; 10]].concat()), &parts);
}

#[test]
fn case_04_truncated_data() {
    let whole = Folder::llama().read("model.safetensors");
    let expected =
        format!("size: expected {} bytes, got {} bytes: 5 bytes missing.", whole.len(), whole.len() - 5);
    assert_error(open(&whole[..whole.len() - 5]), &["model.safetensors:", &expected, INTERRUPTED]);
}

#[test]
fn case_05_trailing_bytes() {
    let mut file = Folder::llama().read("model.safetensors");
    file.extend([0; 3]);
    assert_error(open(file), &["size: expected", "3 bytes after the last tensor.", UNSOUND]);
}

#[test]
fn case_06_not_utf8() {
    let parts = ["header: expected UTF-8 text, got a byte that is not, at offset 10. The file is damaged"];
    assert_error(open_header(b"{\"\xff\":1}", 0), &parts);
}

#[test]
fn case_07_broken_json() {
    let parts = ["header: expected valid JSON, one object, got", "line 1 column", "The file is damaged"];
    assert_error(open_header("{\"w\": ", 0), &parts);
    assert_error(open_header("{} {}", 0), &parts);
}

#[test]
fn case_08_trailing_nul() {
    let header = "{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}\0\0";
    assert_error(
        open_header(header, 4),
        &["header: expected JSON padded with spaces, got NUL bytes at its end.", UNSOUND],
    );
}

#[test]
fn case_09_leading_space() {
    let header = " {\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    assert_error(open_header(header, 4), &["header: expected `{` as its first byte, got \" \".", UNSOUND]);
    assert_error(open_header("", 0), &["header: expected `{` as its first byte, got nothing."]);
}

#[test]
fn case_10_duplicate_key() {
    let entry = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let parts = ["header, \"w\": expected every name once, got this name twice.", UNSOUND];
    assert_error(open_header(format!(r#"{{"w":{entry},"w":{entry}}}"#), 4), &parts);
    let twice = r#"{"w":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    assert_error(
        open_header(twice, 4),
        &["header: expected a valid safetensors header, got", "duplicate field `dtype`"],
    );
}

#[test]
fn case_11_overlap() {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let parts = [
        "data_offsets of tensor \"b\": expected a begin of 8,",
        "got 4, an overlap with another tensor.",
        UNSOUND,
    ];
    assert_error(open_header(header, 12), &parts);
}

#[test]
fn case_12_hole() {
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#;
    let parts = ["data_offsets of tensor \"b\": expected a begin of 4,", "got 8, a hole before it.", UNSOUND];
    assert_error(open_header(header, 12), &parts);
}

#[test]
fn cases_13_to_21_bad_entry() {
    let cases: [(u32, &str, &str, &str, &[&str]); 9] = [
        (
            13,
            r#""F32""#,
            "[1]",
            "[4,0]",
            &["data_offsets of tensor \"w\": expected begin ≤ end, got [4, 0]."],
        ),
        (
            14,
            r#""F32""#,
            "[1]",
            "[-4,0]",
            &["data_offsets of tensor \"w\": expected a list of whole numbers", "got [-4,0]."],
        ),
        (
            15,
            r#""F32""#,
            "[1]",
            "[0,4.5]",
            &["data_offsets of tensor \"w\": expected a list of whole numbers", "got [0,4.5]."],
        ),
        (
            16,
            r#""F32""#,
            "[4294967296,4294967296]",
            "[0,0]",
            &["shape of tensor \"w\": expected sizes whose product fits 64 bits"],
        ),
        (
            17,
            r#""F32""#,
            "[0,18446744073709551615]",
            "[0,0]",
            &["shape of tensor \"w\": expected sizes that fit", "got [0, 18446744073709551615]."],
        ),
        (
            18,
            r#""F32""#,
            "[3]",
            "[0,8]",
            &["data_offsets of tensor \"w\": expected 12 bytes for shape [3] of F32, got 8 bytes."],
        ),
        (
            19,
            r#""F32""#,
            "[-1]",
            "[0,4]",
            &["shape of tensor \"w\": expected a list of whole numbers", "got [-1]."],
        ),
        (
            20,
            r#""F33""#,
            "[1]",
            "[0,4]",
            &["dtype of tensor \"w\": expected a dtype of the safetensors format, got \"F33\"."],
        ),
        (20, "7", "[1]", "[0,4]", &["dtype of tensor \"w\": expected a dtype", "got 7."]),
    ];
    for (case, dtype, shape, offsets, parts) in cases {
        println!("case {case}");
        assert_error(open_tensor(dtype, shape, offsets, 8), &[parts, &[UNSOUND]].concat());
    }
    let parts = ["dtype of tensor \"w\": expected a value, got no such key.", UNSOUND];
    assert_error(open_header(r#"{"w":{"shape":[1],"data_offsets":[0,4]}}"#, 4), &parts);
    assert_error(
        open_header(r#"{"w":3}"#, 0),
        &["entry of tensor \"w\": expected an object with", "got 3.", UNSOUND],
    );
}

#[test]
fn case_22_metadata_that_is_not_a_string() {
    let header = r#"{"__metadata__":{"step":3},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    assert_error(open_header(header, 4), &["__metadata__, \"step\": expected a string, got 3.", UNSOUND]);
}

#[test]
fn case_23_unaligned_tensor_is_copied() {
    // One byte of another tensor puts the f32s at an odd offset.
    let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}"#;
    let data = [&[7u8][..], &1.5f32.to_le_bytes(), &(-2.0f32).to_le_bytes()].concat();
    for padding in 0..4 {
        let header = format!("{header}{}", " ".repeat(padding));
        let tensor = open(raw_safetensors(header, &data)).unwrap().tensor("w").unwrap();
        assert_eq!(tensor.bytes().as_ptr().addr() % 4, 0);
        assert_eq!(tensor.to_f32(), [1.5, -2.0]);
    }
}

#[test]
fn case_24_no_tensors() {
    let parts = ["header: expected at least one tensor, got no tensors.", UNSOUND];
    assert_error(open_header("{}", 0), &parts);
    assert_error(open_header(r#"{"__metadata__":{"format":"pt"}}"#, 0), &parts);
}

#[test]
fn case_25_names_are_printed_escaped() {
    let header = r#"{"../a\u0000\u001b[31m":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}"#;
    assert_error(open_header(header, 4), &[r#"dtype of tensor "../a\0\u{1b}[31m": expected"#]);
    let long = format!(r#"{{"{}":{{}}}}"#, "x".repeat(100_000));
    let message = open_header(long, 0).unwrap_err().to_string();
    assert!(message.len() < 600 && message.contains("xxx\"…"), "{message}");
}

#[test]
fn case_26_dtype_that_cannot_run() {
    for (dtype, bytes) in [("I64", 8), ("F8_E4M3", 1)] {
        let checkpoint = open_tensor(&format!("{dtype:?}"), "[1]", &format!("[0,{bytes}]"), bytes).unwrap();
        assert!(checkpoint.tensor("w").is_none());
        let expected =
            format!("dtype of tensor \"w\": expected F32, F16 or BF16, got {dtype}. Use the checkpoint that");
        assert_error(checkpoint.require("w"), &["model.safetensors: ", &expected]);
    }
}

#[test]
fn case_33_git_lfs_pointer() {
    let pointer = "version https://git-lfs.example/spec/v1\noid sha256:00\nsize 1\n";
    assert_error(
        open(pointer),
        &["content: expected the model's own file, got a Git LFS pointer", "git lfs pull"],
    );
}

#[test]
fn token_files() {
    let header = r#"{"__metadata__":{"k":"v"},
        "a":{"dtype":"I64","shape":[2,1],"data_offsets":[0,16]},"b":{"dtype":"I32","shape":[1],"data_offsets":[16,20]},
        "c":{"dtype":"U32","shape":[1],"data_offsets":[20,24]},"d":{"dtype":"U16","shape":[1],"data_offsets":[24,26]},
        "e":{"dtype":"U8","shape":[2],"data_offsets":[26,28]},"f":{"dtype":"F32","shape":[],"data_offsets":[28,32]}}"#;
    let mut data = [5i64.to_le_bytes(), (-6i64).to_le_bytes()].concat();
    data.extend([0xff; 10]);
    data.extend([1, 2]);
    data.extend(1f32.to_le_bytes());
    let folder = Folder::empty();
    folder.write("tokens.safetensors", raw_safetensors(header, &data));
    let path = folder.file("tokens.safetensors");
    let read = |key| read_tensor_file(&path, key);
    assert_eq!(read("a").unwrap(), (vec![2, 1], vec![5, -6]));
    assert_eq!(read("b").unwrap(), (vec![1], vec![-1]));
    assert_eq!(read("c").unwrap(), (vec![1], vec![4_294_967_295]));
    assert_eq!(read("d").unwrap(), (vec![1], vec![65_535]));
    assert_eq!(read("e").unwrap(), (vec![2], vec![1, 2]));
    assert_error(
        read("f"),
        &["dtype of tensor \"f\": expected I32, I64, U8, U16 or U32, got F32.", "as integers"],
    );
    assert_error(
        read("x"),
        &["tensor \"x\": expected a tensor of this name, got \"a\", \"b\", \"c\", \"d\", \"e\", \"f\"."],
    );
    assert_error(
        read_tensor_file(&folder.file("none"), "a"),
        &["none: file: expected a safetensors file, got no such file."],
    );
    let file = open_file(&path).unwrap();
    assert_eq!(file.metadata()["k"], "v");
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b", "c", "d", "e", "f"]);
    assert!(file.tensor("a").is_none());
    let scalar = file.tensor("f").unwrap();
    assert_eq!((scalar.shape(), scalar.to_f32()), (&[][..], vec![1.0]));
}

#[test]
fn tensors_of_ones_own() {
    let tensor = Tensor::from_f32(vec![1, 3], vec![1.0, 2.0, f32::NAN]);
    assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, &[1, 3][..]));
    assert_eq!(tensor.to_f32()[..2], [1.0, 2.0]);
    assert_eq!(Tensor::from_f32(vec![0, 3], vec![]).bytes().len(), 0);
}

#[test]
fn dtypes_convert_exactly() {
    let largest = half::bf16::MAX.to_f32();
    for (dtype, values) in [
        (Dtype::F32, vec![0.1, -1.5, f32::MAX, f32::MIN_POSITIVE]),
        (Dtype::F16, vec![0.0, -1.5, 65_504.0, 0.000_976_562_5]),
        (Dtype::BF16, vec![0.0, -1.5, largest, 0.000_976_562_5]),
    ] {
        let one = [("w".to_string(), (vec![2, 2], values.clone()))].into();
        let tensor = open(serialize(&one, dtype)).unwrap().tensor("w").unwrap();
        assert_eq!((tensor.dtype(), tensor.bytes().len()), (dtype, 4 * dtype.size()));
        assert_eq!(tensor.to_f32(), values);
    }
}
