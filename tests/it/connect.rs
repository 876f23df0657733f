//! Each way to log in, against a server that demands it.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::json;

use crate::harness::projector::{place, run, text};
use crate::harness::*;

fn file(folder: &Path, name: &str, content: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The streams are missing on a fresh server: making them proves that we are in.
fn assert_in(url: &str, flags: &[&str]) {
    let (_folder, db) = place();
    let args: Vec<&str> = ["run", "--until-caught-up", "--create-missing"]
        .iter()
        .chain(flags)
        .copied()
        .collect();
    let output = run(&db, url, &args);
    assert!(output.status.success(), "{flags:?}: {}", text(&output));
}

fn assert_refused(url: &str, flags: &[&str]) {
    let (_folder, db) = place();
    let args: Vec<&str> = ["run", "--until-caught-up"]
        .iter()
        .chain(flags)
        .copied()
        .collect();
    let output = run(&db, url, &args);
    assert_eq!(output.status.code(), Some(3), "{flags:?}: {}", text(&output));
    assert!(
        text(&output).contains("refuses these credentials"),
        "{flags:?}: {}",
        text(&output)
    );
}

#[test]
fn connects_with_a_user_and_a_password_from_a_file() {
    let server = NatsServer::start_with("authorization { user: projector, password: \"s3cret word\" }");
    let (folder, _db) = place();
    let right = file(folder.path(), "right", "s3cret word\n");
    let wrong = file(folder.path(), "wrong", "guess\n");
    assert_in(
        &server.url(),
        &["--nats-user", "projector", "--nats-password-file", &right],
    );
    assert_refused(
        &server.url(),
        &["--nats-user", "projector", "--nats-password-file", &wrong],
    );
    assert_refused(&server.url(), &[]);
}

#[test]
fn connects_with_a_token_from_a_file() {
    let server = NatsServer::start_with("authorization { token: \"t0ken\" }");
    let (folder, _db) = place();
    assert_in(
        &server.url(),
        &["--nats-token-file", &file(folder.path(), "right", "t0ken\n")],
    );
    assert_refused(
        &server.url(),
        &["--nats-token-file", &file(folder.path(), "wrong", "other")],
    );
}

#[test]
fn connects_with_an_nkey_from_a_file() {
    let key = KeyPair::new_user();
    let server = NatsServer::start_with(&format!(
        "authorization {{ users: [ {{ nkey: {} }} ] }}",
        key.public_key()
    ));
    let (folder, _db) = place();
    assert_in(
        &server.url(),
        &["--nats-nkey", &file(folder.path(), "right", &key.seed().unwrap())],
    );
    let other = KeyPair::new_user().seed().unwrap();
    assert_refused(
        &server.url(),
        &["--nats-nkey", &file(folder.path(), "wrong", &other)],
    );
}

/// A JWT of NATS' decentralized authentication.
fn jwt(claims: serde_json::Value, issuer: &KeyPair, subject: &KeyPair, name: &str) -> String {
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(&json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let body = part(&json!({
        "jti": format!("{name}-{}", uuid::Uuid::new_v4()), "iat": 1_780_000_000, "iss": issuer.public_key(),
        "sub": subject.public_key(), "name": name, "nats": claims,
    }));
    let signature = issuer.sign(format!("{head}.{body}").as_bytes()).unwrap();
    format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn connects_with_a_credentials_file_of_an_operators_account() {
    let (operator, account, user) = (
        KeyPair::new_operator(),
        KeyPair::new_account(),
        KeyPair::new_user(),
    );
    let operator_jwt = jwt(
        json!({"type": "operator", "version": 2}),
        &operator,
        &operator,
        "O",
    );
    let unlimited = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
        "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let claims = json!({"type": "account", "version": 2, "limits": unlimited});
    let account_jwt = jwt(claims, &operator, &account, "A");
    let claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
    let user_jwt = jwt(claims.clone(), &account, &user, "U");
    let system = KeyPair::new_account();
    let system_jwt = jwt(
        json!({"type": "account", "version": 2, "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        }}),
        &operator,
        &system,
        "SYS",
    );
    let server = NatsServer::start_with(&format!(
        "operator: {operator_jwt}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {account_jwt}, {}: {system_jwt} }}",
        system.public_key(),
        account.public_key(),
        system.public_key(),
    ));
    let creds = |jwt: &str, seed: &str| {
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    };
    let (folder, _db) = place();
    let right = file(
        folder.path(),
        "right.creds",
        &creds(&user_jwt, &user.seed().unwrap()),
    );
    assert_in(&server.url(), &["--nats-creds", &right]);
    let stranger = KeyPair::new_account();
    let wrong = jwt(claims, &stranger, &user, "U");
    let wrong = file(
        folder.path(),
        "wrong.creds",
        &creds(&wrong, &user.seed().unwrap()),
    );
    assert_refused(&server.url(), &["--nats-creds", &wrong]);
    // Not a credentials file at all: the configuration's fault.
    let (_other, db) = place();
    let broken = file(folder.path(), "broken.creds", "hello");
    let output = run(&db, &server.url(), &["run", "--nats-creds", &broken]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("broken.creds"), "{}", text(&output));
}

/// An authority, and certificates it has signed: for the server, and for a client.
struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let folder = tempfile::tempdir().unwrap();
        let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority
            .distinguished_name
            .push(DnType::CommonName, "an authority of ours");
        let authority_key = KeyPair::generate().unwrap();
        let authority_cert = authority.self_signed(&authority_key).unwrap();
        fs::write(folder.path().join("ca.pem"), authority_cert.pem()).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        for name in ["server", "client"] {
            let mut params =
                CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            let cert = params.signed_by(&key, &issuer).unwrap();
            fs::write(folder.path().join(format!("{name}.pem")), cert.pem()).unwrap();
            fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn server(&self, more: &str) -> NatsServer {
        NatsServer::start_with(&format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", {more} }}",
            self.text("server.pem"),
            self.text("server.key"),
            self.text("ca.pem")
        ))
    }
}

#[test]
fn connects_through_tls_with_an_authority_of_ones_own() {
    let certificates = Certificates::new();
    let server = certificates.server("");
    assert_in(&server.url(), &["--nats-ca", &certificates.text("ca.pem")]);
    let (_folder, db) = place();
    let output = run(&db, &server.url(), &["run", "--until-caught-up"]);
    assert_eq!(
        output.status.code(),
        Some(3),
        "an unknown authority is not trusted: {}",
        text(&output)
    );
}

#[test]
fn connects_through_tls_with_a_client_certificate_that_the_server_demands() {
    let certificates = Certificates::new();
    let server = certificates.server("verify: true");
    let (ca, cert, key) = (
        certificates.text("ca.pem"),
        certificates.text("client.pem"),
        certificates.text("client.key"),
    );
    assert_in(
        &server.url(),
        &["--nats-ca", &ca, "--nats-cert", &cert, "--nats-key", &key],
    );
    let (_folder, db) = place();
    let output = run(
        &db,
        &server.url(),
        &["run", "--until-caught-up", "--nats-ca", &ca],
    );
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
}

#[test]
fn connects_where_of_several_servers_one_answers() {
    let server = NatsServer::start();
    assert_in(&format!("nats://127.0.0.1:9,{}", server.url()), &[]);
}

#[test]
fn a_secret_file_that_is_empty_or_missing_is_an_error_of_the_configuration() {
    let (folder, db) = place();
    let empty = file(folder.path(), "empty", "\n");
    for (path, wanted) in [
        (empty.as_str(), "is empty"),
        ("/nowhere/token", "cannot read nats.token_file /nowhere/token"),
    ] {
        let output = run(&db, "nats://127.0.0.1:9", &["run", "--nats-token-file", path]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(wanted), "{}", text(&output));
    }
}
