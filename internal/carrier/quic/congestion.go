package quic

import (
	"crypto/tls"
	"fmt"
	"reflect"
	"sync"

	"github.com/quic-go/quic-go"
)

// flows is how many TCP connections a connection stands for in its congestion control. Inside are many, and each has a congestion
// control of its own: that of the connection is to leave them what they would get outside, and to bound what has none. One TCP
// connection's worth carried 3.3 Mbit/s at 50 ms and 1 % loss, whatever was inside; 16 have room for 40. More of them gain nothing there,
// and lose more of what has no congestion control: of a flood over loopback 3 % on the way, with 32 8 %, with one 0.3 %.
const flows = 16

// The library has Cubic for many connections, and uses New Reno for one; nothing in its interface changes that (v0.65.0). So this file
// changes fields that are not exported:
//
//	quic.Conn . sentPacketHandler . congestion . reno                     false
//	                                           . cubic . numConnections   flows
//	                              . ignorePacketsBelow                    a function of ours, which calls the library's
//
// The rules are:
//
//   - Nothing is changed where the library is not what it was: a connection is slower then, and TestCongestion fails.
//   - The fields belong to a connection's goroutine. A gateway changes them before that is started (the library makes connections by a
//     function in a field), a client while it waits for crypto/tls, which calls VerifyConnection.
//   - When its client has moved, a gateway's connection has a new congestion control. ignorePacketsBelow is called for each ACK frame
//     that has arrived, by the connection's goroutine, which looks there whether it has.

// stand makes the congestion control of a connection stand for many. It is called while no other goroutine uses the connection.
func stand(q *quic.Conn) error {
	handler, err := inside(reflect.ValueOf(q), "sentPacketHandler")
	if err != nil {
		return err
	}
	control, err := inside(handler, "congestion")
	if err != nil {
		return err
	}
	acked, err := inside(handler, "ignorePacketsBelow")
	if err != nil {
		return err
	}
	if t := acked.Type(); t.Kind() != reflect.Func || t.NumIn() != 1 || t.In(0).Kind() != reflect.Int64 || t.NumOut() != 0 {
		return fmt.Errorf("quic-go: ignorePacketsBelow is %v", t)
	}
	if err = standFor(control, flows); err != nil {
		return err
	}
	if control.Kind() != reflect.Interface || control.Elem().Kind() != reflect.Pointer {
		return fmt.Errorf("quic-go: congestion is %v", control.Type())
	}
	now := control.Elem().UnsafePointer()
	hook := (*func(int64))(acked.Addr().UnsafePointer())
	library := *hook
	*hook = func(below int64) {
		library(below)
		if c := control.Elem().UnsafePointer(); c != now {
			now = c
			_ = standFor(control, flows) // it is of the same type
		}
	}
	return nil
}

// standFor makes a congestion control stand for n connections.
func standFor(control reflect.Value, n int64) error {
	reno, err := inside(control, "reno")
	if err != nil {
		return err
	}
	connections, err := inside(control, "cubic", "numConnections")
	if err != nil {
		return err
	}
	if reno.Kind() != reflect.Bool || connections.Kind() != reflect.Int {
		return fmt.Errorf("quic-go: reno is %v, numConnections %v", reno.Type(), connections.Type())
	}
	reno.SetBool(false)
	connections.SetInt(n)
	return nil
}

// standing makes all connections that a listener takes from now on stand for many. It is called before the first packet is read.
func standing(l *quic.Listener) error {
	field, err := inside(reflect.ValueOf(l), "baseServer", "newConn")
	if err != nil {
		return err
	}
	if t := field.Type(); t.Kind() != reflect.Func || t.NumOut() != 1 {
		return fmt.Errorf("quic-go: newConn is %v", t)
	}
	library := reflect.ValueOf(field.Interface())
	field.Set(reflect.MakeFunc(field.Type(), func(of []reflect.Value) []reflect.Value {
		made := library.Call(of)
		_ = standHandler(made[0])
		return made
	}))
	return nil
}

// standHandler makes the connection stand for many that the library wraps in something to which it hands packets.
func standHandler(h reflect.Value) error {
	conn, err := inside(h, "Conn")
	if err != nil {
		return err
	}
	q, ok := conn.Interface().(*quic.Conn)
	if !ok {
		return fmt.Errorf("quic-go: Conn is %v", conn.Type())
	}
	return stand(q)
}

// dialling returns a configuration with which the one connection that is dialled by a transport stands for many.
func dialling(t *quic.Transport, c *tls.Config) *tls.Config {
	c = c.Clone()
	verify := c.VerifyConnection
	c.VerifyConnection = func(s tls.ConnectionState) error {
		_ = standAll(t)
		if verify == nil {
			return nil
		}
		return verify(s)
	}
	return c
}

// standAll makes the connections of a transport stand for many.
func standAll(t *quic.Transport) error {
	mutex, err := inside(reflect.ValueOf(t), "mutex")
	if err != nil {
		return err
	}
	mu, ok := mutex.Addr().Interface().(*sync.Mutex)
	if !ok {
		return fmt.Errorf("quic-go: mutex is %v", mutex.Type())
	}
	handlers, err := inside(reflect.ValueOf(t), "handlers")
	if err != nil {
		return err
	}
	if handlers.Kind() != reflect.Map {
		return fmt.Errorf("quic-go: handlers is %v", handlers.Type())
	}
	mu.Lock()
	defer mu.Unlock()
	for all := handlers.MapRange(); all.Next(); {
		if err := standHandler(all.Value()); err != nil {
			return err
		}
	}
	return nil
}

// inside follows fields of the library's structs, exported or not, through pointers and interfaces. What it returns can be set.
func inside(v reflect.Value, fields ...string) (reflect.Value, error) {
	for _, name := range fields {
		for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			return reflect.Value{}, fmt.Errorf("quic-go: no struct has a field %s", name)
		}
		f := v.FieldByName(name)
		if !f.CanAddr() {
			return reflect.Value{}, fmt.Errorf("quic-go: %v has no field %s", v.Type(), name)
		}
		v = reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Elem()
	}
	return v, nil
}
