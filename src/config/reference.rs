//! `docs/CONFIGURATION.md`, made of the table of settings.

use std::fmt::Write;

use super::DEFAULT_FILE;
use super::settings::SETTINGS;

const HEAD: &str = "# Configuration

This page is made from the table of settings in the code; a test fails when it is not (`cargo test --lib config` says how to
write it anew).

Flags beat the environment, which beats the file, which beats the defaults. The file is TOML, named by `--config`, else ";

const UNITS: &str = ".
Each setting is one key of a section: `store.page_cache` is `page_cache` under `[store]`. In the environment it is
`RESULTS_PROJECTOR_` and the key in capitals with `_` for the dot: `RESULTS_PROJECTOR_STORE_PAGE_CACHE`. A key of the
file that is not known, or a value that cannot be meant, is an error that names the file and line, or the variable; exit code 2.
Secrets come from files only: a setting names the file. Where a setting has a second variable (`NATS_URL`), the one named after
its key wins. The file itself can be named by `RESULTS_PROJECTOR_CONFIG`.

Sizes have a unit: `KB`, `MB`, `GB` are powers of 1000, `KiB`, `MiB`, `GiB` of 1024, none is bytes. So have lengths of time:
`ms`, `s`, `min`, `h`, `d`, also one after the other (`1 h 30 min`).

`results-projector config check` reads all of it; `config show` prints every setting with its value and where it came from.
";

/// The page.
pub(super) fn reference() -> String {
    let mut page = format!("{HEAD}`{DEFAULT_FILE}`{UNITS}");
    let mut section = "";
    for setting in SETTINGS {
        let (of, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        // Writing to a text cannot fail.
        if of != section {
            section = of;
            let _written = write!(
                page,
                "\n## [{of}]\n\n| key | default | what it is | also set by |\n|---|---|---|---|\n"
            );
        }
        let default = setting
            .default
            .map_or("not set".to_owned(), |value| format!("`{value}`"));
        let flag = setting.flag.map(|flag| format!("`--{flag}`"));
        let env = setting.env.map(|name| format!("`{name}`"));
        let also: Vec<String> = flag.into_iter().chain(env).collect();
        let _written = writeln!(
            page,
            "| `{name}` | {default} | {} | {} |",
            setting.doc,
            also.join(", ")
        );
    }
    page
}
