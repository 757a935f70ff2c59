//! What the server keeps for all its clients: one shared state, whichever it is. No socket in it.

/// A state that changes only by what clients say, one line after the other.
pub trait State {
    /// Whether the server's log shows each change. Of a white-board there are too many.
    const LOGGED: bool;

    /// A client comes in. What the others hear, and the state as it is now, for the new one alone.
    fn join(&mut self, name: &str) -> Joined;

    /// What a client says; the events that follow from it, in their order.
    ///
    /// # Errors
    /// It changes nothing, and why.
    fn say(&mut self, name: &str, text: &str) -> Result<Vec<String>, String>;

    /// A client has gone.
    fn leave(&mut self, name: &str) -> String;
}

/// What is sent where a client comes in.
pub struct Joined {
    /// For those who were in.
    pub event: String,
    /// For the new one: all the events so far, in one line.
    pub now: String,
}
