//! Works on an image store from the command line: `store DIR pull REFERENCE`, `store DIR import NAME < TAR`,
//! `store DIR list`, `store DIR remove NAME`, and `store DIR export NAME FILE` for the block image.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use hull_image::{Limits, Store};
use hull_protocol::api::PullRequest;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [directory, verb, rest @ ..] = arguments.as_slice() else {
        return Err("usage: store DIR pull|import|list|remove|export ...".into());
    };
    let store = Store::open(Path::new(directory), Limits::default())?;
    let mut out = std::io::stdout().lock();
    match (*verb, rest) {
        ("pull", [reference]) => {
            let plain_http = reference.starts_with("127.0.0.1:");
            let request =
                PullRequest { reference: (*reference).to_owned(), plain_http, ..PullRequest::default() };
            let image = store.pull(&request, |_| ()).await?;
            writeln!(out, "{}", image.digest)?;
        }
        ("import", [name]) => {
            let stdin = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
            let image = store.import(tokio::fs::File::from_std(stdin), name, None, |_| ()).await?;
            writeln!(out, "{}", image.digest)?;
        }
        ("remove", [name]) => writeln!(out, "{:?}", store.remove(name, |_| false)?)?,
        ("export", [name, file]) => {
            let mut image = store.open_block_image(&store.resolve(name)?)?;
            std::io::copy(&mut image, &mut std::fs::File::create_new(file)?)?;
        }
        ("list", []) => {
            for image in store.list() {
                writeln!(out, "{} {} {}", image.digest, image.names.join(","), image.size)?;
            }
        }
        _ => return Err("unknown verb or wrong number of arguments".into()),
    }
    Ok(())
}
