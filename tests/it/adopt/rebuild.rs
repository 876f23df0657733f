//! The backend's own file, made anew: refilled in a copy while the backend is stopped, put in place by its operator.

use std::fs;
use std::path::PathBuf;

use super::*;

fn offered(db: &Path) -> PathBuf {
    let mut path = db.as_os_str().to_owned();
    path.push(".rebuilt");
    path.into()
}

/// Journal modes apart: the file as anybody reads it.
fn everything(db: &Path, ledgers: bool) -> [Vec<Vec<Cell>>; 3] {
    let conn = backend::connect(db);
    let executions = rows(&conn, "SELECT * FROM executions ORDER BY exec_id");
    [read_model(db, ledgers), others_rows(&conn), executions]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backends_file_is_refilled_in_a_copy_that_its_operator_puts_in_place() {
    let server = NatsServer::start();
    let (js, planned) = fleet(&server, 231, 300).await;
    let most = planned.len() * 9 / 10;
    publish(&js, &planned[..most]).await.unwrap();
    for ledgers in [Ledgers::InOtherWords, Ledgers::LikeOurs, Ledgers::Absent] {
        let (_folder, db) = place();
        BackendFile::with(ledgers).create(&db);
        let mut conn = backend::connect(&db);
        for planned in &planned[..40] {
            if let Ok(message) = serde_json::from_slice::<Value>(&planned.payload)
                && let Some(exec_id) = message["exec_id"].as_str()
            {
                backend::deploy(&conn, exec_id, "job", 3);
            }
        }
        catch_up(&db, &server.url());
        backend::reap(&mut conn, "2126-01-01T00:00:00+00:00");
        // What no message has: a key of the ledgers whose rows are gone.
        if ledgers != Ledgers::Absent {
            conn.execute("INSERT INTO job_completions VALUES ('old-job', 'PC-1', 'x')", [])
                .unwrap();
        }
        let before_schema = schema(&conn);
        let refused = run(&db, &server.url(), &["rebuild"]);
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
        assert!(
            text(&refused).contains("is open in another process"),
            "{}",
            text(&refused)
        );
        drop(conn);

        let before = everything(&db, ledgers != Ledgers::Absent);
        assert!(before[0].len() > 500 && before[2].len() > 1);
        let output = run(&db, &server.url(), &["rebuild"]);
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains("rebuild --swap"), "{}", text(&output));
        assert_eq!(
            everything(&db, ledgers != Ledgers::Absent),
            before,
            "as it was: {ledgers:?}"
        );

        // Somebody has written it since: the copy must not take that away.
        backend::connect(&db)
            .execute("DELETE FROM audit_log", [])
            .unwrap();
        let refused = run(&db, &server.url(), &["rebuild", "--swap"]);
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
        assert!(
            text(&refused).contains("has been written since"),
            "{}",
            text(&refused)
        );

        let before = everything(&db, ledgers != Ledgers::Absent);
        // What somebody who looked into the first copy has left beside it.
        let leftover = PathBuf::from(format!("{}-wal", offered(&db).display()));
        fs::write(&leftover, b"a log of another file").unwrap();
        let output = run(&db, &server.url(), &["rebuild", "--keep-old"]);
        assert!(output.status.success(), "{}", text(&output));
        assert!(
            text(&output).contains("rebuild --swap --keep-old\n"),
            "{}",
            text(&output)
        );
        assert!(!leftover.exists());
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let new = inode(&offered(&db));
        let output = run(&db, &server.url(), &["rebuild", "--swap", "--keep-old"]);
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(inode(&db), new);
        assert!(!offered(&db).exists());
        assert!(text(&output).contains("is kept as"), "{}", text(&output));
        let after = everything(&db, ledgers != Ledgers::Absent);
        assert_eq!(after, before, "{ledgers:?}");
        let conn = backend::connect(&db);
        assert_eq!(schema(&conn), before_schema, "{ledgers:?}");
        let sound: String = conn
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(sound, "ok");
        check_i3(&db);
        drop(conn);

        let output = run(&db, &server.url(), &["verify"]);
        assert!(output.status.success(), "{ledgers:?}: {}", text(&output));
    }
}
