//! What packages are made with, and what they install.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::harness::projector::{place, run, run_with, text};

const NOWHERE: &str = "nats://127.0.0.1:1";

#[test]
fn completions_manuals_and_the_example_need_no_configuration() {
    let (folder, db) = place();
    let wrong = folder.path().join("wrong.toml");
    fs::write(&wrong, "[nats]\nurl = 7.5\n").unwrap();
    let env = [("RESULTS_PROJECTOR_CONFIG", wrong.to_str().unwrap())];
    let check = run_with(&db, NOWHERE, &["config", "check"], &env);
    assert_eq!(check.status.code(), Some(2), "{}", text(&check));

    let out = folder.path().join("pages");
    for (args, word) in [
        (&["completions", "bash"][..], "dead-letters"),
        (&["completions", "zsh"], "#compdef results-projector"),
        (&["completions", "fish"], "dead-letters"),
        (&["man"], ".TH results-projector 1"),
        (&["man", "--out", out.to_str().unwrap()], ""),
        (&["config", "example"], "#page_cache = \"256 MiB\""),
    ] {
        let output = run_with(&db, NOWHERE, args, &env);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains(word), "{args:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {}", text(&output));
    }
    assert!(!db.exists());
    let pages: BTreeSet<String> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    // Every page that the others name is there.
    for page in &pages {
        let text = fs::read_to_string(out.join(page)).unwrap();
        let named = text.lines().filter_map(|line| line.strip_suffix("(1)"));
        for name in named.filter(|line| line.starts_with("results\\-projector")) {
            let file = format!("{}.1", name.replace("\\-", "-"));
            assert!(pages.contains(&file), "{page} names {file}");
        }
        let lists = text.contains(".SH SUBCOMMANDS");
        assert!(lists || text.contains("Exit codes"), "{page}");
    }
    assert!(pages.contains("results-projector-dead-letters-retry.1") && pages.len() > 20);

    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = run(&db, NOWHERE, &["man", "--out", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("--out"), "{}", text(&refused));
}

#[test]
fn the_version_says_what_it_is_built_from_in_its_long_form_only() {
    let (_folder, db) = place();
    let short = run(&db, NOWHERE, &["-V"]);
    let name = format!("results-projector {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8_lossy(&short.stdout), name);
    let long = run(&db, NOWHERE, &["--version"]);
    assert!(long.status.success());
    let long = String::from_utf8(long.stdout).unwrap();
    let lines: Vec<&str> = long.lines().collect();
    assert_eq!(lines.len(), 4, "{long}");
    assert!(
        long.starts_with(&name) && lines[1].starts_with("commit "),
        "{long}"
    );
    assert_eq!(lines[2], format!("SQLite {}", rusqlite::version()));
    let migrations = |set: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(set);
        fs::read_dir(folder).unwrap().count()
    };
    let wanted = format!(
        "schema: read model {}, books {}",
        migrations("read_model"),
        migrations("books")
    );
    assert_eq!(lines[3], wanted);
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATING.md")).unwrap();
    assert!(
        guide.contains(&wanted),
        "docs/OPERATING.md shows other schemas than {wanted}"
    );
}
