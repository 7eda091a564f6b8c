package ws

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/proxy"

	"ferry/internal/carrier"
)

// proxyPorts are the schemes of proxies, and where they listen if their URL does not say. A SOCKS5 proxy always looks
// names up itself here, which is what the h says elsewhere.
var proxyPorts = map[string]string{"http": "80", "socks5": "1080", "socks5h": "1080"}

// errProxyURL does not show the URL, which may hold a password where none is expected.
var errProxyURL = errors.New("the URL of the proxy is none: write http:// or socks5://[user:password@]host:port")

// proxy returns which one leads to an endpoint; nil: none.
func (p Options) proxy(e carrier.Endpoint) (u *url.URL, err error) {
	switch p.Proxy {
	case Direct:
		return nil, nil
	case "":
		if u, err = environment(e); u == nil {
			return nil, err
		}
	default:
		u, err = url.Parse(p.Proxy)
	}
	if err != nil || proxyPorts[u.Scheme] == "" || u.Hostname() == "" {
		return nil, errProxyURL
	}
	return u, nil
}

// Proxied tells whether the environment names a proxy for an endpoint: then nobody here knows where its host is.
func Proxied(e carrier.Endpoint) bool {
	u, err := environment(e)
	return u != nil || err != nil
}

// environment returns the proxy that the environment names for an endpoint.
func environment(e carrier.Endpoint) (*url.URL, error) {
	c := httpproxy.FromEnvironment()
	for _, name := range []string{"all_proxy", "ALL_PROXY"} {
		if all := os.Getenv(name); all != "" {
			c.HTTPProxy, c.HTTPSProxy = or(c.HTTPProxy, all), or(c.HTTPSProxy, all)
		}
	}
	scheme := "https"
	if e.Scheme == "ws" {
		scheme = "http"
	}
	return c.ProxyFunc()(&url.URL{Scheme: scheme, Host: hostPort(e)})
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func hostPort(e carrier.Endpoint) string { return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))) }

// connect makes the TCP connection to an endpoint, through a proxy unless that is nil.
func connect(ctx context.Context, e carrier.Endpoint, d *net.Dialer, via *url.URL) (conn net.Conn, err error) {
	if via == nil {
		if conn, err = d.DialContext(ctx, "tcp", e.Target()); err != nil {
			return nil, explain(err)
		}
		return conn, nil
	}
	if via.Scheme == "http" {
		conn, err = connectHTTP(ctx, e, d, via)
	} else {
		conn, err = connectSOCKS(ctx, e, d, via)
	}
	if err != nil {
		return nil, fmt.Errorf("the proxy %s: %w", via.Redacted(), explain(err))
	}
	return conn, nil
}

func proxyAddress(via *url.URL) string {
	return net.JoinHostPort(via.Hostname(), or(via.Port(), proxyPorts[via.Scheme]))
}

// connectSOCKS goes through a SOCKS5 proxy: RFC 1928, with names and passwords of RFC 1929.
func connectSOCKS(ctx context.Context, e carrier.Endpoint, d *net.Dialer, via *url.URL) (net.Conn, error) {
	var auth *proxy.Auth
	if via.User != nil {
		password, _ := via.User.Password()
		auth = &proxy.Auth{User: via.User.Username(), Password: password}
	}
	s, err := proxy.SOCKS5("tcp", proxyAddress(via), auth, d)
	if err != nil {
		return nil, err
	}
	return s.(proxy.ContextDialer).DialContext(ctx, "tcp", hostPort(e))
}

// connectHTTP goes through an HTTP proxy: CONNECT, RFC 9110, section 9.3.6.
func connectHTTP(ctx context.Context, e carrier.Endpoint, d *net.Dialer, via *url.URL) (net.Conn, error) {
	conn, err := d.DialContext(ctx, "tcp", proxyAddress(via))
	if err != nil {
		return nil, err
	}
	if err := bounded(ctx, conn, func() error { return tunnel(conn, e, via) }); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// tunnel asks an HTTP proxy for a tunnel to an endpoint.
func tunnel(conn net.Conn, e carrier.Endpoint, via *url.URL) error {
	r := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: hostPort(e)}, Host: hostPort(e), Header: make(http.Header)}
	if via.User != nil {
		password, _ := via.User.Password()
		pair := via.User.Username() + ":" + password
		r.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(pair)))
	}
	if err := r.Write(conn); err != nil {
		return err
	}
	answer, early, err := readAnswer(conn, r)
	switch {
	case err != nil:
		return err
	case answer.StatusCode == http.StatusProxyAuthRequired && via.User == nil:
		return errors.New("the proxy wants a user name and password: write http://user:password@host:port")
	case answer.StatusCode == http.StatusProxyAuthRequired:
		return errors.New("the proxy takes another user name and password, or none of this kind (Basic)")
	case answer.StatusCode != http.StatusOK:
		return fmt.Errorf("it does not connect to %s: %d %s", hostPort(e), answer.StatusCode, http.StatusText(answer.StatusCode))
	case len(early) > 0:
		return errors.New("it sent something before it was asked: is it an HTTP proxy?")
	}
	return nil
}
