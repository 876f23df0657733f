use super::*;

fn load(file: Option<&str>, env: &[(&str, &str)], flags: GlobalArgs) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let mut flags = flags;
    if let Some(text) = file {
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        flags.config = Some(path);
    }
    Config::load(&flags, &|name| {
        env.iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    })
}

fn refusal(file: &str) -> String {
    load(Some(file), &[], GlobalArgs::default())
        .unwrap_err()
        .to_string()
}

fn origin(config: &Config, key: &str) -> String {
    config
        .shown()
        .iter()
        .find(|shown| shown.key == key)
        .unwrap()
        .origin
        .clone()
}

#[test]
fn flags_beat_environment_beats_file_beats_defaults_and_each_value_knows_its_origin() {
    let file = "[group]\nmax_rows = 7\n[store]\npath = \"file.db\"\n[nats]\nurl = \"nats://file\"\n";
    let flags = GlobalArgs {
        db: Some("flag.db".into()),
        ..GlobalArgs::default()
    };
    let env = [
        ("RESULTS_PROJECTOR_DB", "env.db"),
        ("NATS_URL", "nats://env:4222,nats://b"),
    ];
    let config = load(Some(file), &env, flags).unwrap();
    assert_eq!(config.store.path, PathBuf::from("flag.db"));
    assert_eq!(config.nats.url, "nats://env:4222,nats://b");
    assert_eq!(config.group.max_rows, 7);
    assert_eq!(config.source.expires, Duration::from_secs(15));
    assert_eq!(origin(&config, "store.path"), "flag --db");
    assert_eq!(origin(&config, "nats.url"), "environment NATS_URL");
    assert!(origin(&config, "group.max_rows").ends_with("config.toml:2"));
    assert_eq!(origin(&config, "source.expires"), "default");
    let url = config
        .shown()
        .iter()
        .find(|shown| shown.key == "nats.url")
        .unwrap();
    assert_eq!(url.value.as_deref(), Some("nats://env:4222,nats://b"));
}

#[test]
fn every_setting_can_come_from_the_environment_by_its_own_name() {
    let config = load(
        None,
        &[("RESULTS_PROJECTOR_GROUP_MAX_BYTES", "3 MiB")],
        GlobalArgs::default(),
    )
    .unwrap();
    assert_eq!(config.group.max_bytes, 3 << 20);
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_one() {
    let text = refusal("[outputs]\n\nmax_byte = \"1 MiB\"\n");
    assert!(
        text.contains(
            "config.toml:3: unknown setting \"outputs.max_byte\"; the nearest is outputs.max_bytes"
        ),
        "{text}"
    );
    assert!(refusal("[nonsense]\n").contains("unknown setting"));
}

#[test]
fn a_wrong_value_is_refused_with_place_key_value_and_what_was_expected() {
    for (file, wanted) in [
        (
            "[source]\nack_wait = 5\n",
            "source.ack_wait: \"5\": expected a duration with its unit",
        ),
        (
            "[group]\nmax_bytes = \"many\"\n",
            "group.max_bytes: \"many\": expected a size",
        ),
        (
            "[source]\nbatch_messages = 4294967296\n",
            "source.batch_messages: \"4294967296\": expected a whole number of at most",
        ),
        ("[store]\nsynchronous = \"off\"\n", "expected one of full, normal"),
        ("[group\n", "config.toml:1"),
        (
            "[group]\nmax_rows = true\n",
            "group.max_rows: expected a text or a whole number",
        ),
        (
            "[outputs]\nmax_bytes = \"65 MiB\"\n",
            "raise those, or lower this",
        ),
        (
            "[source]\nconsumer_prefix = \"a.b\"\n",
            "cannot begin a consumer's name",
        ),
        (
            "[source]\nheartbeat = \"10 s\"\n",
            "at most half of source.expires",
        ),
        (
            "[group]\nmax_rows = 0\n",
            "config.toml:2: group.max_rows: must be at least 1",
        ),
        (
            "[source]\nin_flight_bytes = \"4 GiB\"\n",
            "source.in_flight_bytes: must be below 4 GiB",
        ),
        (
            "[nats]\nurl = \"\"\n",
            "config.toml:2: nats.url: \"\": names no server; give at least one",
        ),
        ("[nats]\nurl = \" , \"\n", "nats.url: \" , \": names no server"),
        (
            "[nats]\nurl = \"nats://a,nats://me:sec,ret@b:4222\"\n",
            "nats.url: \"b:4222\": a name or password does not belong here",
        ),
        (
            "[nats]\nmonitor_url = \"https://broker:8222\"\n",
            "nats.monitor_url: \"https://broker:8222\": that port is asked without TLS",
        ),
        (
            "[nats]\nmonitor_url = \"http://me:secret@broker:8222\"\n",
            "nats.monitor_url: \"broker:8222\": a name or password",
        ),
        (
            "[nats]\nmonitor_url = \"broker:8222\"\n",
            "expected one address, such as http://",
        ),
        ("[nats]\nuser = \"me\"\n", "nats.password_file is missing"),
        ("[nats]\ncert = \"me.pem\"\n", "nats.key is missing"),
        ("[nats]\ncreds = \"a\"\nnkey = \"b\"\n", "keep one of them"),
    ] {
        let text = refusal(file);
        assert!(text.contains(wanted), "{file:?} gave {text:?}");
        assert!(!text.contains("secret") && !text.contains("sec,ret"), "{text:?}");
    }
}

#[test]
fn what_is_wrong_is_said_in_one_line_however_long_it_is() {
    let long = "\u{1b}[2J\n".repeat(1_000);
    let toml = toml::Value::String(long).to_string();
    for file in [
        format!("[group]\nmax_bytes = {toml}\n"),
        format!("[source]\nconsumer_prefix = {toml}\n"),
        format!("[store]\n{} = 1\n", "a".repeat(5_000)),
    ] {
        let text = refusal(&file);
        assert!(text.len() < 700 && !text.contains(char::is_control), "{text:?}");
    }
}

#[test]
fn sizes_and_durations_carry_units() {
    assert_eq!(units::bytes("64 MiB"), Ok(64 << 20));
    assert_eq!(units::bytes("10MB"), Ok(10_000_000));
    assert_eq!(units::bytes("4096"), Ok(4096));
    assert_eq!(units::duration("1h 30m"), Ok(Duration::from_secs(5400)));
    assert_eq!(units::duration("250 ms"), Ok(Duration::from_millis(250)));
    assert_eq!(units::duration("30 days"), Ok(Duration::from_secs(30 * 86_400)));
    for text in ["", "5", "s", "5 parsecs", "99999999999999999999 s"] {
        assert!(units::duration(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_duration_that_no_clock_can_add_is_refused_and_no_panic() {
    assert_eq!(
        units::duration("36500 days"),
        Ok(Duration::from_secs(36_500 * 86_400))
    );
    for text in [
        "36500 days 1 ms".to_owned(),
        "18446744073709551615 ms".to_owned(),
        "18446744073709551615 s".to_owned(),
        // Each part alone can be counted, their sum cannot.
        "18446744073709551615 ms ".repeat(1_001),
    ] {
        let error = units::duration(&text).unwrap_err();
        assert!(error.contains("at most 36500 days"), "{error}");
    }
}

#[test]
fn a_configuration_file_that_is_named_must_exist() {
    let flags = GlobalArgs {
        config: Some(PathBuf::from("nowhere.toml")),
        ..GlobalArgs::default()
    };
    assert!(
        load(None, &[], flags)
            .unwrap_err()
            .to_string()
            .contains("nowhere.toml")
    );
}

#[test]
fn the_page_about_configuration_is_made_of_the_table_of_settings() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIGURATION.md");
    let made = super::reference::reference();
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == made,
        "docs/CONFIGURATION.md is old: write it anew with WRITE_DOCS=1 cargo test --lib config"
    );
}

#[test]
fn every_flag_of_a_setting_is_listened_to() {
    for (flag, key) in super::settings::SETTINGS
        .iter()
        .filter_map(|setting| Some((setting.flag?, setting.key)))
    {
        let value = if flag == "log-format" { "json" } else { "some/file" };
        let typed = ["results-projector", &format!("--{flag}={value}"), "status"].map(Into::into);
        let flags = crate::cli::Cli::read(typed, "").unwrap().global;
        let shown = Layers::read(&flags, &|_| None).unwrap().shown();
        let shown = shown.iter().find(|shown| shown.key == key).unwrap();
        assert_eq!(shown.origin, format!("flag --{flag}"), "{key}");
    }
}

#[test]
fn every_setting_is_read() {
    let reading: String = include_str!("mod.rs").split_whitespace().collect();
    for setting in super::settings::SETTINGS {
        let key = setting.key;
        assert!(
            reading.contains(&format!("(\"{key}\"")),
            "{key} is shown and changes nothing"
        );
    }
}

#[test]
fn the_example_holds_every_setting_with_its_default_and_the_committed_file_is_the_example() {
    let example = example();
    let set = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            // A comment has a blank there.
            Some(setting) if !setting.starts_with(' ') => setting,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n");
    for text in [&example, &set] {
        let config = load(Some(text), &[], GlobalArgs::default()).unwrap();
        let values = |config: &Config| -> Vec<String> {
            let value = |shown: &Shown| shown.value.clone().unwrap_or_default();
            config.shown().iter().map(value).collect()
        };
        assert_eq!(values(&config), values(&Config::defaults().unwrap()));
        let in_file = |shown: &&Shown| shown.origin.starts_with("file");
        let found = config.shown().iter().filter(in_file).count();
        assert_eq!(found, if *text == set { config.shown().len() } else { 0 });
    }
    assert_eq!(
        include_str!("../../deploy/config.toml"),
        example,
        "run: results-projector config example > deploy/config.toml"
    );
}
