//! A real registry on a loopback with the Debian and the Python image, ended with the value.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// It listens as long as the value is there.
pub struct Registry {
    child: Child,
    pub port: u16,
}

impl Registry {
    /// Starts one by `command`, which makes a program run where the registry is to be.
    pub fn start(command: impl Fn(&str, &[&str]) -> Command) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = tempfile::NamedTempFile::new().unwrap();
        let fixtures = std::env::var_os("HULL_FIXTURES").expect("system tests are run by `cargo xtask test`");
        let storage = Path::new(&fixtures).join("images/registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: '{}'}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
            storage.display()
        );
        std::fs::write(config.path(), text).unwrap();
        let child = command("docker-registry", &["serve", config.path().to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { child, port };
        for _ in 0..600 {
            let listening = ["-Hltn", "sport", "=", &format!(":{port}")];
            if !command("ss", &listening).output().unwrap().stdout.is_empty() {
                return registry;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("docker-registry does not listen");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
