use crate::{Error, Table};

/// No routing table: every call answers [`Error::Unsupported`].
#[derive(Clone, Debug)]
pub struct Router(());

impl Router {
    /// Answers [`Error::Unsupported`].
    pub fn open() -> Result<Self, Error> {
        Err(Error::Unsupported)
    }

    /// Answers [`Error::Unsupported`].
    pub async fn dump(&self) -> Result<Table, Error> {
        Err(Error::Unsupported)
    }
}

/// Answers [`Error::Unsupported`].
pub fn table() -> Result<Table, Error> {
    Err(Error::Unsupported)
}

/// No events: [`Events::open`] answers [`Error::Unsupported`].
#[derive(Debug)]
pub struct Events(());

impl Events {
    /// Answers [`Error::Unsupported`].
    pub fn open() -> Result<Self, Error> {
        Err(Error::Unsupported)
    }

    /// Answers [`Error::Unsupported`].
    pub async fn changed(&mut self) -> Result<(), Error> {
        Err(Error::Unsupported)
    }
}
