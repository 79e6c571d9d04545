//! `hull token`: what a tenant comes with where nobody knows its user.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use hull_protocol::api::{NewToken, Scope, Token as Record, TokenSpec};

use super::for_each;
use super::list::{Format, Listing, print};
use crate::client::{Client, Host, escape};
use crate::moment;
use crate::table::{Table, ago};

/// Manage your tenant's tokens
#[derive(Debug, Args)]
#[command(after_help = "\
A token is shown once, when it is made. Keep it in a file, and come with it: 'hull --token-file FILE', or
HULL_TOKEN_FILE=FILE.

Examples:
  hull token create --scope operate --expires 90d ci >ci.token
  hull --tenant acme token create --scope admin first >acme.token")]
pub(super) struct Token {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(Create),
    Ls(Ls),
    Rm(Rm),
}

/// What a token is good for
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Good {
    /// Look at everything
    Read,
    /// Make, change, reach into and remove microVMs, images and networks
    Operate,
    /// Also make and remove tokens
    Admin,
}

impl From<Good> for Scope {
    fn from(good: Good) -> Self {
        match good {
            Good::Read => Self::Read,
            Good::Operate => Self::Operate,
            Good::Admin => Self::Admin,
        }
    }
}

/// Make a token and print it, this once
#[derive(Debug, Args)]
struct Create {
    /// What it is good for
    #[arg(long, value_enum, default_value_t = Good::Operate)]
    scope: Good,
    /// How long, such as 90d or 12h; without an end when missing
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// What it is for
    #[arg(default_value = "")]
    name: String,
}

/// List tokens
#[derive(Debug, Args)]
struct Ls {
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Remove tokens: who has one is nobody from now on
#[derive(Debug, Args)]
struct Rm {
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

impl Token {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        match self.verb {
            Verb::Create(Create { scope, expires, name }) => {
                let seconds = |text: String| {
                    let span = moment::ago(&text).map(|span| span.as_secs());
                    span.with_context(|| format!("'{text}' is no length of time: write it as 90d or 1h30m"))
                };
                let spec =
                    TokenSpec { name, scope: scope.into(), lifetime: expires.map(seconds).transpose()? };
                let made: NewToken = Client::connect(host).await?.post("/v1/tokens", &spec).await?;
                print(&format!("{}\n", made.secret))
            }
            Verb::Ls(ls) => {
                let tokens: Vec<Record> = Client::connect(host).await?.get("/v1/tokens").await?;
                let listing = Listing { quiet: ls.quiet, format: ls.format };
                listing.print(&tokens, |token| token.id.clone(), table)
            }
            Verb::Rm(rm) => {
                let client = Client::connect(host).await?;
                for_each(&rm.ids, async |id| {
                    client.delete(&format!("/v1/tokens/{}", escape(&id))).await?;
                    Ok(id)
                })
                .await
            }
        }
    }
}

fn table(tokens: &[Record]) -> Table {
    let mut table = Table::new(&["ID", "NAME", "SCOPE", "CREATED", "EXPIRES", "LAST USED"]);
    for token in tokens {
        let scope = match token.scope {
            Scope::Read => "read",
            Scope::Operate => "operate",
            Scope::Admin => "admin",
        };
        table.row(vec![
            token.id.clone(),
            token.name.clone(),
            scope.into(),
            ago(&token.created_at),
            token.expires_at.clone().unwrap_or_else(|| "never".into()),
            token.last_used_at.as_deref().map_or_else(|| "never".into(), ago),
        ]);
    }
    table
}
