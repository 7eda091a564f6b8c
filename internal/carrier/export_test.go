package carrier

// SocketPair is for tests that stand outside of the package.
var SocketPair = socketPair
