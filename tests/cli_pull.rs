//! `pull` against a real HTTP server on this machine that misbehaves in every way servers do.

mod common;

use common::{Done, rawrz};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// One request as it came: its path, and its headers with lower-case names.
#[derive(Clone, Debug, Default)]
struct Request {
    path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Where the asked-for range starts.
    fn start(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// A server on a free port of the loopback address; its thread ends with the test process.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// `answer` gets each request and its number, counted from 0, and writes what it likes.
    fn start(
        answer: impl Fn(usize, &Request, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let request = read_request(&stream);
                    let number = {
                        let mut seen = seen.lock().unwrap();
                        seen.push(request.clone());
                        seen.len() - 1
                    };
                    // The client may hang up in the middle; some tests make it.
                    let _ = answer(number, &request, &mut stream);
                });
            }
        });
        Server { address, requests }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn read_request(stream: &TcpStream) -> Request {
    let mut lines = BufReader::new(stream).lines().map(|line| line.unwrap_or_default());
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.split_once(": ").map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned()))
        })
        .collect();
    Request { path, headers }
}

/// Writes status line, headers and body, and closes.
fn send(
    stream: &mut TcpStream,
    status: &str,
    headers: &[(&str, String)],
    body: &[u8],
) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(body)
}

/// What a good server with ranges answers; no more than `limit` bytes of the body.
fn serve(
    stream: &mut TcpStream,
    request: &Request,
    file: &[u8],
    etag: Option<&str>,
    limit: usize,
) -> std::io::Result<()> {
    let mut headers: Vec<(&str, String)> = etag.map(|etag| ("etag", etag.to_owned())).into_iter().collect();
    let same = request.header("if-range").is_none_or(|asked| Some(asked) == etag);
    let (status, body) = match request.start().filter(|_| same) {
        Some(start) if start >= file.len() => {
            headers.push(("content-range", format!("bytes */{}", file.len())));
            ("416 Range Not Satisfiable", &file[..0])
        }
        Some(start) => {
            headers.push(("content-range", format!("bytes {start}-{}/{}", file.len() - 1, file.len())));
            ("206 Partial Content", &file[start..])
        }
        None => ("200 OK", file),
    };
    headers.push(("content-length", body.len().to_string()));
    send(stream, status, &headers, &body[..limit.min(body.len())])
}

/// Bytes that begin like a GGUF file and differ at every place.
fn file(len: usize) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    let mut state = 7_u32;
    bytes.resize_with(len, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A models folder of its own for each test.
struct Models(tempfile::TempDir);

impl Models {
    fn new() -> Models {
        Models(tempfile::tempdir().unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = rawrz();
        command.arg("pull").args(args).env("RAWRZ_MODELS", self.0.path());
        // Whatever proxy and account the user has, they are not part of these tests.
        for name in ["HF_TOKEN", "HF_ENDPOINT"] {
            command.env_remove(name);
        }
        command
    }

    fn pull(&self, args: &[&str]) -> Done {
        self.command(args).output().unwrap().into()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Names of all files that could be taken for a model, in this folder and below.
    fn models(&self) -> Vec<String> {
        fn walk(folder: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                } else if path.extension().is_some_and(|ext| ext == "gguf") {
                    found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        let mut found = Vec::new();
        walk(self.0.path(), &mut found);
        found
    }

    fn part_len(&self, name: &str) -> u64 {
        fs::metadata(self.path(&format!("{name}.part"))).map_or(0, |metadata| metadata.len())
    }
}

#[test]
fn a_file_is_fetched_checked_and_found_again() {
    let content = file(3_000_000);
    let served = content.clone();
    let server =
        Server::start(move |_, request, stream| serve(stream, request, &served, Some("\"v1\""), usize::MAX));
    let models = Models::new();
    let done = models.pull(&[&server.url("/some/where/m.gguf?download=true")]);
    assert!(done.stderr.contains(&sha256(&content)), "{done:?}");
    let path = models.path("m.gguf");
    assert_eq!(done.ok(), format!("{}\n", path.display()));
    assert!(fs::read(&path).unwrap() == content);
    assert_eq!(models.part_len("m.gguf"), 0);
    assert!(!models.path("m.gguf.part.version").exists());

    let done = models.pull(&[&server.url("/m.gguf"), "--sha256", &sha256(&content)]);
    assert!(done.stderr.contains("is there already"), "{done:?}");
    done.ok();
    assert_eq!(server.requests().len(), 1, "what is there is not fetched again");

    // What is there is never replaced, even by what was asked for.
    let error = models.pull(&[&server.url("/m.gguf"), "--sha256", &"0".repeat(64)]).failed(1);
    assert!(error.contains("is there, but its SHA-256"), "{error}");
    assert!(fs::read(&path).unwrap() == content);
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    let content = file(2_000_000);
    let served = content.clone();
    // Each answer breaks off after 600,000 bytes.
    let server =
        Server::start(move |_, request, stream| serve(stream, request, &served, Some("\"v1\""), 600_000));
    let models = Models::new();
    models.pull(&[&server.url("/m.gguf")]).ok();
    assert!(fs::read(models.path("m.gguf")).unwrap() == content);
    let requests = server.requests();
    assert_eq!(requests.len(), 4);
    assert_eq!(requests[0].header("range"), None);
    assert_eq!(requests[1].start(), Some(600_000));
    assert_eq!(requests[1].header("if-range"), Some("\"v1\""));
    assert_eq!(requests[3].start(), Some(1_800_000));
    assert_eq!(requests[0].header("accept-encoding"), Some("identity"));
}

#[test]
fn bytes_of_two_versions_are_never_joined() {
    let (old, new) =
        (file(1_000_000), file(1_000_001).split_off(1).iter().map(|b| b ^ 1).collect::<Vec<_>>());
    let new = [b"GGUF", &new[4..]].concat();
    let served = new.clone();
    // The file changes after half of the old one was sent.
    let server = Server::start(move |number, request, stream| match number {
        0 => serve(stream, request, &old, Some("\"old\""), 500_000),
        _ => serve(stream, request, &served, Some("\"new\""), usize::MAX),
    });
    let models = Models::new();
    models.pull(&[&server.url("/m.gguf")]).ok();
    assert!(fs::read(models.path("m.gguf")).unwrap() == new);
    assert_eq!(server.requests()[1].header("if-range"), Some("\"old\""));
}

#[test]
fn without_a_version_the_fetch_starts_over() {
    let content = file(1_000_000);
    for etag in [None, Some("W/\"weak\"")] {
        let served = content.clone();
        let server = Server::start(move |number, request, stream| {
            serve(stream, request, &served, etag, if number == 0 { 400_000 } else { usize::MAX })
        });
        let models = Models::new();
        models.pull(&[&server.url("/m.gguf")]).ok();
        assert!(fs::read(models.path("m.gguf")).unwrap() == content);
        assert_eq!(server.requests()[1].header("range"), None);
    }
}

#[test]
fn a_known_hash_allows_to_go_on_without_a_version() {
    let content = file(1_000_000);
    let served = content.clone();
    let server = Server::start(move |number, request, stream| {
        serve(stream, request, &served, None, if number == 0 { 400_000 } else { usize::MAX })
    });
    let models = Models::new();
    models.pull(&[&server.url("/m.gguf"), "--sha256", &sha256(&content)]).ok();
    assert!(fs::read(models.path("m.gguf")).unwrap() == content);
    assert_eq!(server.requests()[1].start(), Some(400_000));
}

#[test]
fn a_server_without_ranges_sends_it_all_again() {
    let content = file(1_000_000);
    let served = content.clone();
    let server = Server::start(move |number, _, stream| {
        serve(
            stream,
            &Request::default(),
            &served,
            Some("\"v1\""),
            if number == 0 { 400_000 } else { usize::MAX },
        )
    });
    let models = Models::new();
    models.pull(&[&server.url("/m.gguf"), "--sha256", &sha256(&content)]).ok();
    assert!(fs::read(models.path("m.gguf")).unwrap() == content);
    assert_eq!(server.requests().len(), 2);
}

/// Waits until `.part` has `len` bytes.
fn wait_for_part(models: &Models, name: &str, len: u64, child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while models.part_len(name) < len {
        assert!(
            Instant::now() < deadline && child.try_wait().unwrap().is_none(),
            "no part of {len} bytes came"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_fetch_that_was_killed_goes_on_in_the_next_run() {
    let content = file(2_000_000);
    let served = content.clone();
    let server = Server::start(move |number, request, stream| {
        serve(stream, request, &served, Some("\"v1\""), if number == 0 { 1_200_000 } else { usize::MAX })?;
        if number == 0 {
            // Silent, but not gone.
            std::thread::sleep(Duration::from_secs(60));
        }
        Ok(())
    });
    let models = Models::new();
    let mut child = models.command(&[&server.url("/m.gguf")]).stderr(Stdio::null()).spawn().unwrap();
    wait_for_part(&models, "m.gguf", 1_200_000, &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(models.models(), [""; 0], "nothing may be taken for a model yet");
    models.pull(&[&server.url("/m.gguf")]).ok();
    assert!(fs::read(models.path("m.gguf")).unwrap() == content);
    assert_eq!(server.requests()[1].start(), Some(1_200_000));

    // Of another address, what is here is worth nothing.
    fs::rename(models.path("m.gguf"), models.path("m.gguf.part")).unwrap();
    fs::write(models.path("m.gguf.part.version"), "http://127.0.0.1:1/m.gguf\n\"v1\"\n").unwrap();
    models.pull(&[&server.url("/m.gguf")]).ok();
    assert_eq!(server.requests()[2].header("range"), None);
}

#[test]
fn a_part_that_is_complete_is_only_confirmed() {
    let content = file(500_000);
    let served = content.clone();
    let server =
        Server::start(move |_, request, stream| serve(stream, request, &served, Some("\"v1\""), usize::MAX));
    let models = Models::new();
    let url = server.url("/m.gguf");
    fs::write(models.path("m.gguf.part"), &content).unwrap();
    fs::write(models.path("m.gguf.part.version"), format!("{url}\n\"v1\"\n")).unwrap();
    models.pull(&[&url]).ok();
    assert!(fs::read(models.path("m.gguf")).unwrap() == content);
    assert_eq!(server.requests().len(), 1);
    assert_eq!(server.requests()[0].start(), Some(500_000));
}

#[test]
fn a_wrong_hash_leaves_nothing() {
    let content = file(300_000);
    let served = content.clone();
    let server =
        Server::start(move |_, request, stream| serve(stream, request, &served, Some("\"v1\""), usize::MAX));
    let models = Models::new();
    let wanted = "ab".repeat(32);
    let error = models.pull(&[&server.url("/m.gguf"), "--sha256", &wanted]).failed(1);
    assert!(error.contains(&wanted) && error.contains(&sha256(&content)), "{error}");
    assert_eq!(models.models(), [""; 0]);
    assert_eq!(models.part_len("m.gguf"), 0);
    assert_eq!(server.requests().len(), 1, "the same bytes would come again");
}

#[test]
fn a_damaged_part_is_fetched_anew() {
    let content = file(300_000);
    let served = content.clone();
    let server = Server::start(move |_, request, stream| serve(stream, request, &served, None, usize::MAX));
    let models = Models::new();
    fs::write(models.path("m.gguf.part"), vec![9; 100_000]).unwrap();
    let done = models.pull(&[&server.url("/m.gguf"), "--sha256", &sha256(&content)]);
    assert!(done.stderr.contains("starting over"), "{done:?}");
    done.ok();
    assert!(fs::read(models.path("m.gguf")).unwrap() == content);
}

#[test]
fn refusals_name_the_address_and_leave_nothing() {
    let served = file(1000);
    let server = Server::start(move |_, request, stream| {
        let length = |n: usize| ("content-length", n.to_string());
        match request.path.as_str() {
            "/missing.gguf" => send(stream, "404 Not Found", &[length(9)], b"not found"),
            "/private.gguf" => send(stream, "403 Forbidden", &[length(0)], b""),
            "/page.gguf" => send(stream, "200 OK", &[length(20)], b"<html>log in please<"),
            "/endless.gguf" => {
                send(stream, "200 OK", &[("transfer-encoding", "chunked".into())], b"")?;
                loop {
                    stream.write_all(b"4\r\nGGUF\r\n")?;
                }
            }
            "/huge.gguf" => send(stream, "200 OK", &[length(1 << 60)], b"GGUF"),
            "/nowhere.gguf" => send(stream, "302 Found", &[length(0)], b""),
            "/out.gguf" => {
                send(stream, "302 Found", &[("location", "http://example.org/m.gguf".into()), length(0)], b"")
            }
            "/file.gguf" => {
                send(stream, "302 Found", &[("location", "file:///etc/passwd".into()), length(0)], b"")
            }
            "/loop.gguf" => send(stream, "302 Found", &[("location", "/loop.gguf".into()), length(0)], b""),
            "/range.gguf" => send(
                stream,
                "206 Partial Content",
                &[("content-range", "bytes 5-999/1000".into()), length(995)],
                &served[5..],
            ),
            path => panic!("{path} was not meant to be asked for"),
        }
    });
    let models = Models::new();
    for (name, why) in [
        ("missing", "404"),
        ("private", "403"),
        ("page", "not a GGUF file"),
        ("endless", "does not say how long"),
        ("huge", "make room"),
        ("nowhere", "redirects to nowhere"),
        ("out", "not https"),
        ("file", "not"),
        ("loop", "more than 10 times"),
        ("range", "another range"),
    ] {
        let error = models.pull(&[&server.url(&format!("/{name}.gguf"))]).failed(1);
        assert!(error.contains(why), "{name}: {error}");
        assert_eq!(models.part_len(&format!("{name}.gguf")), 0, "{name}");
    }
    assert_eq!(models.models(), [""; 0]);
}

#[test]
fn no_more_is_taken_than_was_declared() {
    let content = file(100_000);
    let served = content.clone();
    let server = Server::start(move |_, _, stream| {
        send(stream, "200 OK", &[("content-length", "100000".into())], &served)?;
        loop {
            stream.write_all(&[0; 4096])?;
        }
    });
    let models = Models::new();
    models.pull(&[&server.url("/m.gguf")]).ok();
    assert!(fs::read(models.path("m.gguf")).unwrap() == content);
}

#[test]
fn a_server_in_trouble_is_asked_again_and_then_given_up() {
    let content = file(1000);
    let served = content.clone();
    let server = Server::start(move |number, request, stream| match number {
        0 => send(stream, "503 Service Unavailable", &[("content-length", "0".into())], b""),
        1 => Ok(()), // hangs up without a word
        _ => serve(stream, request, &served, None, usize::MAX),
    });
    let models = Models::new();
    models.pull(&[&server.url("/m.gguf")]).ok();
    assert!(fs::read(models.path("m.gguf")).unwrap() == content);

    let server = Server::start(|_, _, stream| {
        send(stream, "500 Internal Server Error", &[("content-length", "0".into())], b"")
    });
    let error = models.pull(&[&server.url("/n.gguf")]).failed(1);
    assert!(error.contains("gave up after 4 tries") && error.contains("500"), "{error}");
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn a_host_that_cannot_be_reached_is_not_waited_for() {
    // A port that was free a moment ago, and that nobody listens on.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let models = Models::new();
    let started = Instant::now();
    let error = models.pull(&[&format!("http://127.0.0.1:{port}/m.gguf")]).failed(1);
    assert!(error.contains("cannot reach 127.0.0.1"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(!models.path("m.gguf.part").exists());
}

#[test]
fn one_of_many_fetches_and_the_others_find_it() {
    let content = file(2_000_000);
    let served = content.clone();
    let server = Server::start(move |_, request, stream| {
        std::thread::sleep(Duration::from_millis(500));
        serve(stream, request, &served, Some("\"v1\""), usize::MAX)
    });
    let models = Models::new();
    let url = server.url("/m.gguf");
    let children: Vec<_> = (0..6)
        .map(|_| models.command(&[&url]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for child in children {
        let done = Done::from(child.wait_with_output().unwrap());
        assert_eq!(done.ok(), format!("{}\n", models.path("m.gguf").display()));
    }
    assert_eq!(server.requests().len(), 1);
    assert!(fs::read(models.path("m.gguf")).unwrap() == content);
}

#[test]
fn hugging_face_tells_the_hash_and_the_token_stays_with_it() {
    let content = file(800_000);
    let served = content.clone();
    let store =
        Server::start(move |_, request, stream| serve(stream, request, &served, Some("\"s1\""), usize::MAX));
    let target = store.url("/blob?signed=1");
    let told = sha256(&content);
    let hub = Server::start(move |_, request, stream| {
        let wrong = request.path.contains("wrong");
        let sha = if wrong { "00".repeat(32) } else { told.clone() };
        let size = if request.path.contains("short") { "799999" } else { "800000" };
        let headers = [
            ("location", target.clone()),
            ("x-linked-etag", format!("\"{sha}\"")),
            ("x-linked-size", size.into()),
            ("content-length", "0".into()),
        ];
        send(stream, "302 Found", &headers, b"")
    });
    let models = Models::new();
    let pull = |source: &str| {
        let mut command = models.command(&[source]);
        command.env("HF_ENDPOINT", &hub.address).env("HF_TOKEN", "hf_secret");
        Done::from(command.output().unwrap())
    };
    let path = pull("hf:owner/repo@v2/q4/m.gguf").ok();
    assert_eq!(
        path.trim_end(),
        models.path("hf").join("owner").join("repo").join("q4").join("m.gguf").to_str().unwrap()
    );
    assert_eq!(hub.requests()[0].path, "/owner/repo/resolve/v2/q4/m.gguf");
    assert_eq!(hub.requests()[0].header("authorization"), Some("Bearer hf_secret"));
    assert_eq!(store.requests()[0].header("authorization"), None);

    let error = pull("hf:owner/repo/wrong.gguf").failed(1);
    assert!(error.contains("SHA-256"), "{error}");
    let error = pull("hf:owner/repo/short.gguf").failed(1);
    assert!(error.contains("has a file of 800000 bytes, expected 799999"), "{error}");
    assert_eq!(models.models(), ["m.gguf"]);
}

#[test]
fn all_shards_of_a_model_are_fetched() {
    let server = Server::start(|_, request, stream| {
        let mut content = file(1000);
        content.extend(request.path.as_bytes());
        serve(stream, request, &content, None, usize::MAX)
    });
    let models = Models::new();
    let mut command = models.command(&["hf:o/r/m-00001-of-00003.gguf"]);
    let done = Done::from(command.env("HF_ENDPOINT", &server.address).output().unwrap());
    assert!(done.ok().trim_end().ends_with("m-00001-of-00003.gguf"));
    let mut found = models.models();
    found.sort();
    assert_eq!(found, ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"]);
}

#[test]
fn a_built_in_model_comes_from_hugging_face_where_it_can_be_reached() {
    let real = fs::read(common::model("smollm2")).unwrap();
    let served = real.clone();
    let hub = Server::start(move |_, request, stream| serve(stream, request, &served, None, usize::MAX));
    let models = Models::new();
    let pull = || {
        let mut command = models.command(&["smollm2"]);
        Done::from(command.env("HF_ENDPOINT", &hub.address).output().unwrap())
    };
    // What an earlier run left, from whatever source, is the beginning of the same file.
    let name = "smollm2-135m-instruct-q4_1.gguf";
    fs::write(models.path(&format!("{name}.part")), &real[..60_000_000]).unwrap();
    let done = pull();
    assert!(done.stderr.contains("Apache-2.0"), "the licence is told: {done:?}");
    done.ok();
    assert_eq!(hub.requests()[0].start(), Some(60_000_000));
    assert!(hub.requests()[0].path.contains("/SmolLM2-135M-Instruct-GGUF/resolve/"), "{:?}", hub.requests());
    assert!(fs::read(models.path(name)).unwrap() == real);

    // A file of that name that is not the model stays as it is, and is told.
    fs::write(models.path(name), b"GGUF, but mine").unwrap();
    let error = pull().failed(1);
    assert!(error.contains("has 14 bytes instead of 98362432"), "{error}");
    assert_eq!(fs::read(models.path(name)).unwrap(), b"GGUF, but mine");
}

#[test]
fn a_folder_that_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("a file");
    fs::write(&blocked, b"").unwrap();
    let output = rawrz().args(["pull", "smollm2"]).env("RAWRZ_MODELS", &blocked).output().unwrap();
    let error = Done::from(output).failed(1);
    assert!(error.contains("cannot make the folder"), "{error}");
}

#[test]
fn the_request_reader_of_these_tests_reads_headers() {
    let server = Server::start(|_, _, stream| send(stream, "200 OK", &[], b"x"));
    let mut stream = TcpStream::connect(server.address.trim_start_matches("http://")).unwrap();
    stream.write_all(b"GET /p HTTP/1.1\r\nRange: bytes=7-\r\nHost: h\r\n\r\n").unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!((server.requests()[0].path.as_str(), server.requests()[0].start()), ("/p", Some(7)));
}
