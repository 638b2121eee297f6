//! Files over raw HTTP: forms in every order and form, limits, and what a crash leaves.

use serde_json::json;

use crate::support::{Config, KeyOptions, Reply, Server, shared};

const BOUNDARY: &str = "frontier";

/// Names and values.
pub(crate) type Fields<'a> = &'a [(&'a str, &'a [u8])];

/// A form of these fields; a name that ends with `@` is that of the file `x.bin`.
fn form(fields: Fields) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        let (name, file) = match name.strip_suffix('@') {
            Some(name) => (name, "; filename=\"x.bin\"\r\nContent-Type: application/octet-stream"),
            None => (*name, ""),
        };
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(value);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

fn send(server: &Server, key: &str, body: &[u8]) -> Reply {
    let bearer = format!("Bearer {key}");
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    server.post_raw("/v1/files", &[("Authorization", &bearer), ("Content-Type", &kind)], body)
}

pub(crate) fn upload(server: &Server, key: &str, fields: Fields) -> Reply {
    send(server, key, &form(fields))
}

#[test]
fn bytes_come_back_as_they_were_whatever_the_order_of_the_form() {
    let (server, _) = shared();
    let key = server.key(KeyOptions { project: "files", ..KeyOptions::default() });
    let content: Vec<u8> = (0..700_001_u32).map(|i| (i * 7 % 251) as u8).collect();
    let file = upload(server, &key, &[("file@", &content), ("purpose", b"user_data")]).ok();
    assert_eq!((&file["bytes"], &file["expires_at"]), (&json!(content.len()), &json!(null)));
    let path = format!("/v1/files/{}", file["id"].as_str().expect("an id"));
    let reply = server.fetch(&format!("{path}/content"), &key);
    assert_eq!((reply.status(), reply.header("x-content-type-options")), (200, Some("nosniff")));
    assert!(reply.body == content, "the content differs");
    let empty = upload(server, &key, &[("purpose", b"batch"), ("file@", b"")]).ok();
    assert_eq!(empty["bytes"], 0);
    let stranger = server.key(KeyOptions { project: "files-other", ..KeyOptions::default() });
    for path in [path.clone(), format!("{path}/content")] {
        assert_eq!(server.fetch(&path, &stranger).code(), "file_not_found");
    }
    assert_eq!(server.delete(&path, &stranger).code(), "file_not_found");
    server.delete(&path, &key).ok();
    assert_eq!(server.fetch(&path, &key).status(), 404);
}

#[test]
fn forms_that_are_refused_leave_nothing() {
    let (server, _) = shared();
    let key = server.key(KeyOptions { project: "files-bad", ..KeyOptions::default() });
    let file: (&str, &[u8]) = ("file@", b"x");
    let cases: [(Fields, &str, &str); 10] = [
        (&[file], "missing_required_parameter", "purpose"),
        (&[("purpose", b"batch")], "missing_required_parameter", "file"),
        (&[("purpose", b"vision"), file], "unsupported_value", "purpose"),
        (&[("purpose", b"batch_output"), file], "unsupported_value", "purpose"),
        (&[("purpose", b"batch"), file, file], "duplicate_field", "file"),
        (&[("purpose", b"batch"), ("shape", b"x"), file], "unknown_parameter", "shape"),
        (&[("purpose", b"batch"), ("file", b"x")], "invalid_value", "file"),
        (&[("purpose", &[b'x'; 2_000]), file], "string_above_max_length", "purpose"),
        (
            &[("purpose", b"batch"), file, ("expires_after[seconds]", b"7200")],
            "missing_required_parameter",
            "expires_after[anchor]",
        ),
        (
            &[
                file,
                ("purpose", b"batch"),
                ("expires_after[seconds]", b"7200"),
                ("expires_after[anchor]", b"now"),
            ],
            "invalid_value",
            "expires_after[anchor]",
        ),
    ];
    for (fields, code, param) in cases {
        let reply = upload(server, &key, fields);
        assert_eq!((reply.status(), reply.code().as_str()), (400, code), "{}", reply.text());
        assert_eq!(reply.json()["error"]["param"], param);
    }
    let whole = form(&[("purpose", b"batch"), file]);
    assert_eq!(send(server, &key, &whole[..whole.len() - 8]).code(), "invalid_body");
    assert_eq!(server.post("/v1/files", &key, &json!({})).code(), "unsupported_media_type");
    assert_eq!(server.fetch("/v1/files?limit=0", &key).code(), "integer_below_min_value");
    assert_eq!(server.fetch("/v1/files?after=file-no", &key).code(), "invalid_value");
    assert_eq!(server.fetch("/v1/files", &key).ok()["data"], json!([]));
    let left = std::fs::read_dir(server.data().path().join("files")).expect("the folder of files");
    let parts = left.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    assert_eq!(parts.filter(|name| name.ends_with(".part")).count(), 0);
}

#[test]
fn limits_hold_and_files_outlive_a_crash() {
    let config = Config::new().with("files", "max_file_mib", "1").with("files", "org_mib", "2").with(
        "files",
        "org_files",
        "3",
    );
    let mut server = Server::start(&config);
    let key = server.key(KeyOptions { project: "files", ..KeyOptions::default() });
    let mib = vec![b'x'; 1 << 20];
    let put =
        |server: &Server, content: &[u8]| upload(server, &key, &[("purpose", b"batch"), ("file@", content)]);
    let reply = put(&server, &[&mib[..], b"y"].concat());
    assert_eq!((reply.status(), reply.code().as_str()), (413, "request_too_large"));
    let first = put(&server, &mib).ok();
    put(&server, &mib[1..]).ok();
    let reply = put(&server, b"xy");
    assert_eq!((reply.status(), reply.code().as_str()), (413, "storage_limit_exceeded"));
    put(&server, b"x").ok();
    assert_eq!(put(&server, b"").code(), "storage_limit_exceeded");
    server.kill_hard();
    server.exit_status();
    let server = Server::start_in(server.data(), &config);
    let path = format!("/v1/files/{}", first["id"].as_str().expect("an id"));
    assert!(server.fetch(&format!("{path}/content"), &key).body == mib);
    server.delete(&path, &key).ok();
    put(&server, b"xy").ok();
    assert_eq!(server.fetch("/v1/files", &key).ok()["data"].as_array().map(Vec::len), Some(3));
}

#[test]
fn an_upload_with_an_idempotency_key_is_refused_by_name() {
    let (server, _) = shared();
    let key = server.key(KeyOptions { project: "files-key", ..KeyOptions::default() });
    let bearer = format!("Bearer {key}");
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", &kind), ("Idempotency-Key", "once")];
    let body = form(&[("purpose", b"batch"), ("file@", b"x")]);
    let reply = server.post_raw("/v1/files", &headers, &body);
    assert_eq!((reply.status(), reply.code().as_str()), (400, "unsupported_value"), "{}", reply.text());
    assert!(reply.text().contains("Idempotency-Key"), "{}", reply.text());
    assert_eq!(server.fetch("/v1/files", &key).ok()["data"], json!([]));
}
