//! PyTorch's weight files (tests/torch-files, made by tools/golden/make_torch_files.py): what they hold, their conversion, and
//! files made to do harm.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{assert_error, models::Folder, small::bits};
use probeprune::{
    checkpoint::{Checkpoint, TorchFile, convert},
    cpu::Cpu,
    model::Model,
    prune::settings::Settings,
    session::{Limits, Session},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::{SafeTensors, View};

fn torch_files(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch-files").join(name)
}

/// The golden OPT model without its weights.
fn opt_config() -> Folder {
    let folder = Folder::empty();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/transformers-logits/opt");
    folder.write("config.json", fs::read(golden.join("config.json")).unwrap());
    folder
}

fn golden_opt() -> Vec<u8> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/transformers-logits/opt");
    fs::read(golden.join("model.safetensors")).unwrap()
}

#[test]
fn tensors_are_those_that_torch_saved() {
    let file = TorchFile::open(&torch_files("tensors.bin")).unwrap();
    let expected = fs::read(torch_files("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    let mut names = expected.names();
    names.sort();
    assert!(file.names().eq(names.iter().copied()) && names.len() == 19);
    for name in names {
        let (got, want) = (file.tensor(name).unwrap(), expected.tensor(name).unwrap());
        assert_eq!(((&got).dtype(), (&got).shape()), (want.dtype(), want.shape()), "{name}");
        assert_eq!((&got).data(), want.data(), "{name}");
    }
    assert!(
        file.are_one("base", "base") && !file.are_one("base", "transposed") && !file.are_one("base", "rows")
    );
    assert!(!file.are_one("absent", "absent"));
}

fn logits(folder: &Folder) -> Vec<u32> {
    let model = Model::load(&folder.source(), true, Arc::new(Cpu::new(2).unwrap()), |_| ()).unwrap();
    let limits = Limits { samples: 1, tokens: 8, capacity: 0 };
    let mut session = Session::new(Arc::new(model), Settings::default_for(2), limits, None).unwrap();
    session.forward(&[2, 5, 9, 30, 11, 7, 7, 1], 1, None, true).unwrap();
    bits(&session.logits(1).unwrap())
}

/// The layout of facebook/opt-125m: names without `model.`, and a head that is the embedding.
#[test]
fn a_converted_model_is_the_same_model() {
    let folder = opt_config();
    folder.write("pytorch_model.bin", fs::read(torch_files("opt/pytorch_model.bin")).unwrap());
    let refused = Checkpoint::open(&folder.source(), true);
    let place = folder.path().to_str().unwrap();
    assert_error(refused, &["got only \"pytorch_model.bin\".", "probeprune convert ", place]);
    let converted = convert(folder.path()).unwrap();
    assert_eq!(converted.files, [folder.file("model.safetensors")]);
    let checkpoint = Checkpoint::open(&folder.source(), true).unwrap();
    let golden = opt_config();
    golden.write("model.safetensors", golden_opt());
    let expected = Checkpoint::open(&golden.source(), true).unwrap();
    // The head, being the embedding's own elements, is left out.
    assert!(checkpoint.names().eq(expected.names().map(|name| name.strip_prefix("model.").unwrap())));
    assert_eq!(converted.tensors, expected.names().count());
    for name in expected.names() {
        assert_eq!(
            checkpoint.require(name).unwrap().bytes(),
            expected.require(name).unwrap().bytes(),
            "{name}"
        );
    }
    assert_eq!(logits(&folder), logits(&golden));
    let names = folder.path().read_dir().unwrap().count();
    assert_eq!(names, 3, "nothing else is left in the folder");
    assert_error(
        convert(folder.path()),
        &["model.safetensors: output: expected no such file yet", "nothing was written"],
    );
}

/// A head that config.json does not tie has to be there, whatever it shares.
#[test]
fn a_head_that_is_not_tied_is_written() {
    let folder = opt_config();
    folder.edit_json("config.json", |config| config["tie_word_embeddings"] = false.into());
    folder.write("pytorch_model.bin", fs::read(torch_files("opt/pytorch_model.bin")).unwrap());
    convert(folder.path()).unwrap();
    let checkpoint = Checkpoint::open(&folder.source(), true).unwrap();
    let bytes = |name| checkpoint.require(name).unwrap().bytes().to_vec();
    assert_eq!(bytes("lm_head.weight"), bytes("model.decoder.embed_tokens.weight"));
}

#[test]
fn shards_become_shards() {
    let folder = opt_config();
    let names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
    for name in names.iter().chain(&["pytorch_model.bin.index.json"]) {
        folder.write(name, fs::read(torch_files("sharded").join(name)).unwrap());
    }
    assert_error(
        Checkpoint::open(&folder.source(), true),
        &["only \"pytorch_model.bin.index.json\"", "probeprune convert"],
    );
    let converted = convert(folder.path()).unwrap();
    assert_eq!((converted.files.len(), converted.tensors, converted.bytes), (3, 3, 36));
    let checkpoint = Checkpoint::open(&folder.source(), true).unwrap();
    assert!(checkpoint.names().eq(["a.bias", "a.weight", "b.weight"]));
    let shard = TorchFile::open(&folder.file(names[1])).unwrap();
    assert_eq!(
        checkpoint.require("b.weight").unwrap().bytes(),
        &*(&shard.tensor("b.weight").unwrap()).data()
    );

    // A failure leaves nothing: here, the same tensor in both shards, and a shard that is missing.
    let folder = opt_config();
    folder.write(names[0], fs::read(torch_files("sharded").join(names[0])).unwrap());
    folder.write(names[1], fs::read(torch_files("sharded").join(names[0])).unwrap());
    let index = fs::read(torch_files("sharded/pytorch_model.bin.index.json")).unwrap();
    folder.write("pytorch_model.bin.index.json", index);
    assert_error(
        convert(folder.path()),
        &[names[1], "tensor \"a.bias\": expected every tensor in one shard only"],
    );
    folder.remove(names[1]);
    assert_error(
        convert(folder.path()),
        &[names[1], "shard, one of 2: expected this file, which pytorch_model.bin.index.json"],
    );
    assert_eq!(folder.path().read_dir().unwrap().count(), 3);
    folder.remove("pytorch_model.bin.index.json");
    assert_error(
        convert(folder.path()),
        &["shards such as", names[0], "without pytorch_model.bin.index.json", "Download"],
    );
    assert_error(
        convert(opt_config().path()),
        &["pytorch_model.bin: weights: expected this file", "got neither"],
    );
}

#[test]
fn other_files_of_torch_are_named() {
    let open = |name: &str| TorchFile::open(&torch_files(name));
    let recipe = "torch.save(dict(torch.load(FILE, weights_only=True)), FILE)";
    assert_error(
        open("legacy.bin"),
        &["content: expected a zip container", "a bare pickle, as older versions write", recipe],
    );
    let inside = "torch.save(dict(torch.load(FILE, weights_only=True)[\"state_dict\"]), FILE)";
    assert_error(
        open("nested.bin"),
        &["entry \"state_dict\": expected a tensor, got a dict of tensors", inside],
    );
    let folder = Folder::empty();
    assert_error(open("absent.bin"), &["absent.bin: file: ", "no such file"]);
    for (content, parts) in [
        (&b"version https://git-lfs.github.com/spec/v1\n"[..], "git lfs pull"),
        (b"", "another format"),
        (b"GGUF", "another format"),
        (b"PK\x03\x04", "zip container: expected a whole one"),
    ] {
        folder.write("file", content);
        assert_error(TorchFile::open(&folder.file("file")), &[parts]);
    }
    // Cut off anywhere, it is refused, for a zip container's list is at its end.
    let whole = fs::read(torch_files("sharded/pytorch_model-00001-of-00002.bin")).unwrap();
    for length in (0..whole.len()).step_by(97) {
        folder.write("file", &whole[..length]);
        assert_error(TorchFile::open(&folder.file("file")), &["expected"]);
    }
}

/// A zip container of files that are stored, each with its own name and content.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    zip_with(files, |_| ())
}

/// The same, with changes to the fixed part of every entry in the list of files.
fn zip_with(files: &[(&str, &[u8])], change: impl Fn(&mut [u8; 46])) -> Vec<u8> {
    let (mut out, mut list) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let (size, length) = ((content.len() as u32).to_le_bytes(), (name.len() as u16).to_le_bytes());
        let mut entry = [0; 46];
        entry[..4].copy_from_slice(b"PK\x01\x02");
        entry[20..24].copy_from_slice(&size);
        entry[24..28].copy_from_slice(&size);
        entry[28..30].copy_from_slice(&length);
        entry[42..46].copy_from_slice(&(out.len() as u32).to_le_bytes());
        change(&mut entry);
        list.extend([&entry[..], name.as_bytes()].concat());
        let mut local = [0; 30];
        local[..4].copy_from_slice(b"PK\x03\x04");
        local[18..22].copy_from_slice(&size);
        local[22..26].copy_from_slice(&size);
        local[26..28].copy_from_slice(&length);
        out.extend([&local[..], name.as_bytes(), content].concat());
    }
    let mut end = [0; 22];
    end[..4].copy_from_slice(b"PK\x05\x06");
    end[8..10].copy_from_slice(&(files.len() as u16).to_le_bytes());
    end[10..12].copy_from_slice(&(files.len() as u16).to_le_bytes());
    end[12..16].copy_from_slice(&(list.len() as u32).to_le_bytes());
    end[16..20].copy_from_slice(&(out.len() as u32).to_le_bytes());
    [out, list, end.to_vec()].concat()
}

/// Instructions of a pickle.
fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn int(value: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &value.to_le_bytes()].concat()
}

fn ints(values: &[i64]) -> Vec<u8> {
    [b"(".to_vec(), values.iter().flat_map(|&value| int(value)).collect(), b"t".to_vec()].concat()
}

/// A tensor of float32 in storage `0`.
fn tensor(len: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        int(len),
        b"tQ".to_vec(),
        int(offset),
        ints(shape),
        ints(strides),
        b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ]
    .concat()
}

/// A dict of tensors called `w`, as many as given.
fn dict(tensors: &[Vec<u8>]) -> Vec<u8> {
    let items = tensors
        .iter()
        .enumerate()
        .flat_map(|(i, tensor)| [text(&format!("w{i}")), tensor.clone(), b"s".to_vec()].concat());
    [b"\x80\x02}".to_vec(), items.collect(), b".".to_vec()].concat()
}

/// Opens a container of this pickle and a storage of 4 float32; within a moment.
#[track_caller]
fn hostile(pickle: &[u8], parts: &[&str]) {
    hostile_file(&zip(&[("a/data.pkl", pickle), ("a/data/0", &[0; 16])]), parts);
}

#[track_caller]
fn hostile_file(content: &[u8], parts: &[&str]) {
    let folder = Folder::empty();
    folder.write("pytorch_model.bin", content);
    let start = Instant::now();
    let all: Vec<&str> = [&["pytorch_model.bin: "], parts].concat();
    assert_error(TorchFile::open(&folder.file("pytorch_model.bin")), &all);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn no_code_is_run() {
    let names = [
        ("posix", "system"),
        ("os", "system"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor_v3"),
        ("torch.hub", "load"),
        ("collections", "OrderedDict.__class__"),
        ("torch", "QInt8Storage"),
        ("pytorch_lightning.callbacks", "ModelCheckpoint"),
    ];
    for (module, name) in names {
        let pickle = [format!("\x02c{module}\n{name}\n").as_bytes(), &text("true"), b"\x85R."].concat();
        let named = format!("\"{module}.{name}\"");
        hostile(
            &[b"\x80", &pickle[..]].concat(),
            &["expected nothing but plain tensors", &named, "nothing of it was run"],
        );
    }
    // Protocol 0 and 4, instances, extensions, and a name that would garble a terminal.
    hostile(b"cos\nsystem\n(S'true'\ntR.", &["\"os.system\""]);
    hostile(b"\x80\x04\x95.", &["expected protocol 2"]);
    for code in [b'i', b'o', 0x81, 0x82, 0x93, 0x92, b'P', b'I', b'S', 0x8c, 0x97] {
        hostile(
            &[0x80, 2, b'}', code, b'.'],
            &["an instruction that torch.save writes", &format!("{code:#04x}")],
        );
    }
    hostile(b"\x80\x02c\x1b[2J\nx\n.", &["\"\\u{1b}[2J.x\""]);
    hostile(b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", &["a tensor, parameter or empty dict"]);
}

#[test]
fn pickles_that_are_wrong_or_huge() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "more bytes"),
        (b"\x80\x02", "more bytes"),
        (b"\x80\x02.", "one object"),
        (b"\x80\x02}}.", "one object"),
        (b"\x80\x02}.}", "one object"),
        (b"\x80\x02(}.", "one object"),
        (b"\x80\x02K\x01.", "a dict of names and tensors"),
        (b"\x80\x02}.", "at least one tensor"),
        (b"\x80\x02}K\x01K\x02s.", "names as keys"),
        (b"\x80\x02}K\x01s.", "objects on the stack"),
        (b"\x80\x02}(K\x01u.", "a dict, and keys with values"),
        (b"\x80\x02K\x01(K\x01K\x01u.", "a dict, and keys with values"),
        (b"\x80\x02}K\x01a.", "a list to append to"),
        (b"\x80\x02u", "a mark"),
        (b"\x80\x02(s", "objects on the stack"),
        (b"\x80\x02h\x07", "an object that was remembered"),
        (b"\x80\x02X\xff\xff\xff\xffa", "a text inside the file"),
        (b"\x80\x02X\x01\0\0\0\xff", "UTF-8"),
        (b"\x80\x02\x8a\xff", "at most 64 bits"),
        (b"\x80\x02ctorch", "a line"),
    ];
    for (pickle, part) in cases {
        hostile(pickle, &[part]);
    }
    // A million nested tuples, a dict inside itself, and a memo of a thousand million: nothing recurses or is reserved.
    let nested = [b"\x80\x02)".to_vec(), vec![0x85; 1_000_000], b".".to_vec()].concat();
    hostile(&nested, &["a dict of names and tensors"]);
    hostile(
        &[&b"\x80\x02}q\x00"[..], &text("w"), b"h\x00s."].concat(),
        &["entry \"w\": expected a tensor, got another object"],
    );
    hostile(b"\x80\x02}r\xff\xff\xff\x7fj\xff\xff\xff\x7f.", &["one object"]);
    hostile(&[b"\x80\x02".to_vec(), vec![b')'; 2_000_000]].concat(), &["at most 1048576 objects"]);
    hostile(
        &[b"\x80\x02}".to_vec(), b"(".repeat(1 << 22)].concat(),
        &["size of data.pkl: expected at most 4194304 bytes"],
    );
}

#[test]
fn tensors_outside_their_storage() {
    let huge = i64::MAX;
    let inside = "elements inside a storage of 4, each once";
    let refuse = |tensor: Vec<u8>, part: &str| hostile(&dict(&[tensor]), &["\"w0\": expected", part]);
    refuse(tensor(4, 0, &[5], &[1]), inside);
    refuse(tensor(4, 1, &[4], &[1]), inside);
    refuse(tensor(4, 4, &[1], &[1]), inside);
    refuse(tensor(4, 0, &[2, 2], &[4, 1]), inside);
    refuse(tensor(4, 0, &[2], &[huge]), inside);
    refuse(tensor(4, huge, &[2], &[huge]), inside);
    refuse(tensor(4, 0, &[huge, huge], &[0, 0]), inside);
    refuse(tensor(4, 0, &[0, huge, huge], &[0, 0, 0]), inside);
    // An expanded element: a terabyte from 16 bytes.
    refuse(tensor(4, 0, &[1 << 40], &[0]), inside);
    refuse(tensor(4, 0, &[-1], &[1]), "sizes from 0, got -1");
    refuse(tensor(4, -1, &[1], &[1]), "sizes from 0, got -1");
    refuse(tensor(4, 0, &[2], &[-1]), "sizes from 0, got -1");
    refuse(tensor(4, 0, &[2, 2], &[1]), "as many strides as sizes");
    refuse(tensor(4, 0, &[1; 65], &[1; 65]), "as many strides as sizes");
    refuse(tensor(5, 0, &[5], &[1]), "5 elements of 4 bytes, got 16 bytes");
    refuse(tensor(huge, 0, &[5], &[1]), "elements of 4 bytes, got 16 bytes");
    refuse(tensor(-4, 0, &[1], &[1]), "sizes from 0, got -4");
    // Views of one storage that would fill the disk.
    let storage = vec![0; 1 << 20];
    let many = dict(&vec![tensor(1 << 18, 0, &[1 << 18], &[1]); 400]);
    hostile_file(
        &zip(&[("a/data.pkl", &many), ("a/data/0", &storage)]),
        &["all tensors: expected at most twice the file's"],
    );
    let twice = [
        &b"\x80\x02}"[..],
        &text("w"),
        &tensor(4, 0, &[4], &[1]),
        b"s",
        &text("w"),
        &tensor(4, 0, &[4], &[1]),
        b"s.",
    ]
    .concat();
    hostile(&twice, &["entry \"w\": expected every name once"]);
    // What is refused above is wrong in one thing only.
    let folder = Folder::empty();
    folder.write(
        "good",
        zip(&[
            ("a/data.pkl", &dict(&[tensor(4, 1, &[3], &[1]), tensor(4, 3, &[1, 0], &[huge, huge])])),
            ("a/data/0", &[7; 16]),
        ]),
    );
    let good = TorchFile::open(&folder.file("good")).unwrap();
    assert_eq!(&*(&good.tensor("w0").unwrap()).data(), &[7; 12]);
    assert!((&good.tensor("w1").unwrap()).data().is_empty());
}

#[test]
fn containers_that_are_wrong() {
    let good = dict(&[tensor(4, 0, &[4], &[1])]);
    let [pickle, storage]: [(&str, &[u8]); 2] = [("a/data.pkl", &good), ("a/data/0", &[0; 16])];
    let bare: &[u8] = b"x";
    for name in ["a/../../x", "/etc/passwd", "../x", "a//x", "b/x", "x", "a\\x/y", "a/\u{1b}[2J", "a/"] {
        hostile_file(&zip(&[pickle, storage, (name, bare)]), &["a name inside the container's one folder"]);
    }
    hostile_file(&zip(&[pickle, storage, pickle]), &["file \"a/data.pkl\": expected every name once"]);
    hostile_file(
        &zip(&[pickle]),
        &["storage of tensor \"w0\": expected a file in the zip container, got none"],
    );
    hostile_file(&zip(&[storage]), &["zip container: expected data.pkl"]);
    hostile_file(&zip(&[pickle, ("a/data/0", &[0; 15])]), &["storage of tensor \"w0\"", "got 15 bytes"]);
    hostile_file(
        &zip(&[pickle, storage, ("a/byteorder", b"big")]),
        &["byteorder: expected little, got \"big\""],
    );
    let names: Vec<String> = (0..100_001).map(|i| format!("a/{i}")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), bare)).collect();
    hostile_file(&zip(&many), &["zip container: expected at most 100000 files, got more"]);
    let stored = "a file stored as it is";
    // Compressed; of another size than it takes; encrypted.
    hostile_file(&zip_with(&[pickle, storage], |entry| entry[10] = 8), &[stored]);
    hostile_file(&zip_with(&[pickle, storage], |entry| entry[27] = 0x7f), &[stored]);
    hostile_file(&zip_with(&[pickle, storage], |entry| entry[8] = 1), &[stored]);
    // All entries on the first one's content; beyond the end of the file.
    hostile_file(&zip_with(&[storage, pickle], |entry| entry[42..46].fill(0)), &["two that overlap"]);
    hostile_file(&zip_with(&[pickle, storage], |entry| entry[42..46].fill(0xf0)), &["a whole one"]);
    hostile_file(&zip_with(&[pickle, storage], |entry| entry[20..28].fill(0x7f)), &["a whole one"]);
}

/// Every second byte of a file changed: an error, or tensors that lie inside it.
#[test]
fn changed_bytes_do_no_harm() {
    let folder = Folder::empty();
    let whole = fs::read(torch_files("sharded/pytorch_model-00001-of-00002.bin")).unwrap();
    let mut refused = 0;
    for at in (0..whole.len()).step_by(2) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        folder.write("file", &bytes);
        match TorchFile::open(&folder.file("file")) {
            Ok(file) => file.names().for_each(|name| {
                let tensor = file.tensor(name).unwrap();
                assert_eq!((&tensor).data().len(), (&tensor).data_len());
            }),
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().contains(char::is_control));
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

/// Pieces of good pickles in any order: an error, or tensors that lie inside the file.
#[test]
fn shuffled_pickles_do_no_harm() {
    let pieces: Vec<Vec<u8>> = [
        &b"}"[..],
        b"]",
        b")",
        b"(",
        b"N",
        b"\x85",
        b"\x86",
        b"\x87",
        b"t",
        b"a",
        b"e",
        b"s",
        b"u",
        b"Q",
        b"R",
        b"b",
        b".",
        b"q\0",
        b"q\x01",
        b"h\0",
        b"h\x01",
        b"K\x02",
        b"M\x01\0",
        b"J\xff\xff\xff\xff",
        b"\x8a\0",
        b"G12345678",
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch\nFloatStorage\n",
    ]
    .map(<[u8]>::to_vec)
    .into_iter()
    .chain([
        text("w"),
        text("storage"),
        text("0"),
        int(i64::MIN),
        ints(&[2, 2]),
        tensor(4, 0, &[2, 2], &[1, 2]),
    ])
    .collect();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let folder = Folder::empty();
    let mut read = 0;
    for _ in 0..4_000 {
        let mut pickle = b"\x80\x02}".to_vec();
        for _ in 0..rng.random_range(1..12) {
            // Entries, so that some are whole.
            if rng.random_bool(0.2) {
                let name = format!("w{}", rng.random_range(0..9));
                pickle.extend(
                    [
                        text(&name),
                        tensor(4, rng.random_range(0..3), &[2], &[rng.random_range(0..3)]),
                        b"s".to_vec(),
                    ]
                    .concat(),
                );
            } else {
                pickle.extend(&pieces[rng.random_range(0..pieces.len())]);
            }
        }
        pickle.push(b'.');
        folder.write("file", zip(&[("a/data.pkl", &pickle), ("a/data/0", &[1; 16])]));
        if let Ok(file) = TorchFile::open(&folder.file("file")) {
            read += 1;
            for name in file.names() {
                let tensor = file.tensor(name).unwrap();
                assert_eq!((&tensor).data(), vec![1; (&tensor).data_len()], "{name}");
            }
        }
        // A file that is written over goes to the disk at once.
        folder.remove("file");
    }
    assert!(read > 50, "{read}");
}
