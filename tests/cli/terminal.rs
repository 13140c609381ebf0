//! What a terminal is shown is safe, and what goes into a pipe is as it was. The terminal is a real one, without a window.

use std::{
    fs::File,
    io::Read,
    os::fd::{FromRawFd, OwnedFd},
    process::{Command, Stdio},
};

use serde_json::json;

use crate::{MODEL, PROGRAM, common::models::Folder, path};

/// What the program writes to a terminal, in the order of both its streams.
fn on_terminal(args: &[&str]) -> String {
    // SAFETY: plain calls; the name is copied before another one is asked for, and the descriptors are owned once.
    let (mut screen, program) = unsafe {
        let screen = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(screen >= 0 && libc::grantpt(screen) == 0 && libc::unlockpt(screen) == 0);
        let mut name = [0; 64];
        assert_eq!(libc::ptsname_r(screen, name.as_mut_ptr(), name.len()), 0);
        let program = libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(program >= 0);
        (File::from_raw_fd(screen), OwnedFd::from_raw_fd(program))
    };
    let mut child = Command::new(PROGRAM)
        .args(args)
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .stdout(program.try_clone().unwrap())
        .stderr(program)
        .spawn()
        .unwrap();
    let mut shown = Vec::new();
    // Reading fails once the program has ended.
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = screen.read(&mut piece) {
        shown.extend_from_slice(&piece[..read]);
    }
    child.wait().unwrap();
    String::from_utf8(shown).unwrap().replace("\r\n", "\n")
}

/// Both streams, each a pipe.
fn into_pipes(args: &[&str]) -> [String; 2] {
    let output = Command::new(PROGRAM).args(args).output().unwrap();
    [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap())
}

/// A model that says nothing but sequences that clear the screen and turn text around.
fn hostile() -> Folder {
    let folder = Folder::llama();
    folder.edit_json("tokenizer.json", |tokenizer| {
        let token = |id: usize| format!("\u{1b}[2J\u{202e}{id}\t\n");
        let vocabulary: serde_json::Map<_, _> = (0..264).map(|id| (token(id), json!(id))).collect();
        *tokenizer = json!({
            "version": "1.0",
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": token(0) },
        });
    });
    folder
}

#[test]
fn generated_text_cannot_steer_a_terminal() {
    let folder = hostile();
    let args = ["generate", "--model", path(folder.path()), "--prompt", "x", "--max-new-tokens", "3"];
    let shown = on_terminal(&args);
    let text = shown.rsplit_once('\r').map_or(&*shown, |(_bars, text)| text).replacen("\u{1b}[2K", "", 1);
    assert!(text.contains("\\u{1b}[2J\\u{202e}") && text.contains("\t\n"), "{text:?}");
    assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    let [piped, _] = into_pipes(&args);
    assert!(piped.contains("\u{1b}[2J\u{202e}") && !piped.contains("\\u{"), "{piped:?}");
}

#[test]
fn paths_and_arguments_cannot_steer_a_terminal() {
    let nowhere = "/nowhere\u{1b}]0;title\u{7}\nerror: all is well";
    let text = ["perplexity", MODEL[0], MODEL[1], "--text", nowhere];
    let shown = on_terminal(&text);
    assert!(shown.ends_with("or directory (os error 2). Check the path and its permissions.\n"), "{shown:?}");
    assert!(
        shown.contains("error: /nowhere\\u{1b}]0;title\\u{7}\\nerror: all is well: cannot read"),
        "{shown:?}"
    );
    assert!(into_pipes(&text)[1].starts_with(&format!("error: {nowhere}: cannot read")));

    let unknown = ["perplexity", "--te\u{1b}[31mxt\u{9b}31m\u{202e}"];
    let shown = on_terminal(&unknown);
    assert!(shown.starts_with("error: unexpected argument") && shown.contains("\\u{202e}"), "{shown:?}");
    assert!(!shown.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{shown:?}");

    let model = ["inspect", "--model", "/no\u{1b}[31mwhere"];
    let shown = on_terminal(&model);
    assert!(shown.starts_with("error: ") && !shown.contains('\u{1b}'), "{shown:?}");
}

#[test]
fn colours_of_messages_about_plain_arguments_stay() {
    assert!(on_terminal(&["perplexity", "--nonsense"]).contains("\u{1b}["));
}
