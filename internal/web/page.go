// Package web is a page that shows a gateway in a browser, and the way from there to its control socket.
//
//	browser -- loopback TCP -- Bridge ('vpnsrv web', with the rights of the operator) -- control.sock -- gateway: Page
//
// The rules of the page are:
//
//   - It is plain HTML, CSS and JavaScript, and loads nothing from elsewhere.
//   - Words of others (names, addresses, errors) become text, never HTML; the policy of the Bridge would stop them, too.
//   - What was counted is kept in the page: the gateway keeps no history, and answers what 'vpnsrv status' asks.
//
// The rules of the Bridge are:
//
//   - It listens on loopback only, where other users of the host are, and pages of other sites in the operator's browser.
//   - A request has to name the address that was printed, and to come from there (Host, Origin, Sec-Fetch-Site).
//   - The URL that was printed has a token of 128 bits. It becomes a cookie, and a key that the page sends with each
//     request: a browser shows a cookie to every port of a host, the key to the page alone.
//   - It passes on what the page needs, and nothing else: no invitation, no device, no reload.
//   - What is refused is counted, by reason.
package web

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed page
var embedded embed.FS

// Patterns are those of the page for http.ServeMux.
func Patterns() []string {
	return []string{"GET /{$}", "GET /page.css", "GET /page.js", "GET /dom.js", "GET /chart.js", "GET /history.js", "GET /sessions.js", "GET /icon.svg"}
}

// Page serves what Patterns names.
func Page() http.Handler {
	files, err := fs.Sub(embedded, "page")
	if err != nil {
		panic("web: " + err.Error())
	}
	return http.FileServerFS(files)
}
