//! standin gives every board a stand-in.
