use super::*;
use serde_json::json;

fn spec(table: &str, columns: &[&str], key: &[&str]) -> manifest::Explode {
    let columns: Vec<_> = columns.iter().map(|name| json!({"field": name})).collect();
    let spec = json!({"field": "x", "table": table, "primary_key": key, "columns": columns});
    serde_json::from_value(spec).unwrap()
}

fn code(spec: &manifest::Explode) -> Option<IssueCode> {
    check(spec).err().map(|refusal| refusal.code)
}

#[test]
fn the_names_that_sqlite_answers_to_are_refused() {
    for table in [
        "json_each",
        "JSON_TREE",
        "pragma_table_info",
        "dbstat",
        "idx_apps_name",
    ] {
        let code = code(&spec(table, &["a"], &["a"]));
        assert_eq!(code, Some(IssueCode::ExplodeTableRefused), "{table}");
    }
}

#[test]
fn a_spec_may_not_take_the_name_of_a_backend_index() {
    let mut hostile = spec("Execution_Results", &["a"], &["a"]);
    hostile.table = "execution_results_started".to_owned();
    hostile.columns[0].field = "AT".to_owned();
    hostile.primary_key = vec!["AT".to_owned()];
    assert_eq!(code(&hostile), None);
    hostile.columns[0].index = true;
    assert_eq!(code(&hostile), Some(IssueCode::ExplodeTableRefused));
    assert!(
        check(&hostile)
            .unwrap_err()
            .reason
            .contains("idx_execution_results_started_at")
    );
}

#[test]
fn one_name_of_the_row_id_is_left_for_us() {
    assert_eq!(code(&spec("t", &["rowid", "oid"], &["oid"])), None);
    let all = spec("t", &["rowid", "oid", "_ROWID_"], &["oid"]);
    assert_eq!(code(&all), Some(IssueCode::ExplodeSpecInvalid));
}

#[test]
fn a_table_has_as_many_columns_as_sqlite_takes() {
    let names: Vec<String> = (0..=COLUMNS_MAX).map(|at| format!("c{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(code(&spec("t", &names[1..], &["c1"])), None);
    assert_eq!(
        code(&spec("t", &names, &["c1"])),
        Some(IssueCode::ExplodeSpecInvalid)
    );
}

#[test]
fn what_is_invalid_is_reported_before_what_is_refused() {
    assert_eq!(
        code(&spec("users", &["a"], &["b"])),
        Some(IssueCode::ExplodeSpecInvalid)
    );
}

#[test]
fn the_first_spec_of_a_table_decides_its_shape_in_any_letter_case() {
    let mut claims = Claims::default();
    assert!(
        claims
            .check("a", &spec("Apps", &["name", "ver"], &["name", "ver"]))
            .is_ok()
    );
    // The key is a set.
    assert!(
        claims
            .check("b", &spec("apps", &["name", "ver"], &["ver", "name"]))
            .is_ok()
    );
    for other in [
        spec("APPS", &["ver", "name"], &["name", "ver"]),
        spec("apps", &["name", "ver"], &["name"]),
        spec("apps", &["name", "Ver"], &["name", "Ver"]),
    ] {
        let refusal = claims.check("b", &other).unwrap_err();
        assert_eq!(refusal.code, IssueCode::ExplodeTableRefused);
        assert!(refusal.reason.contains("manifest \"a\""), "{}", refusal.reason);
    }
    // What is invalid claims nothing.
    assert!(claims.check("a", &spec("other", &["x"], &["y"])).is_err());
    assert!(claims.check("b", &spec("other", &["y"], &["y"])).is_ok());
}

#[test]
fn no_taken_name_is_listed_twice() {
    for list in [&TAKEN[..], &TAKEN_INDEXES[..]] {
        let once: std::collections::BTreeSet<_> = list.iter().collect();
        assert_eq!(once.len(), list.len());
    }
}

#[test]
fn outside_text_in_a_reason_is_escaped_and_cut() {
    let refusal = check(&spec(&"\u{1b}[31m\n".repeat(1000), &["a"], &["a"])).unwrap_err();
    assert!(refusal.reason.len() < 600 && !refusal.reason.chars().any(char::is_control));
}
