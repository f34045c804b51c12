//! Names, shapes and pairings: AST to graph IR.
