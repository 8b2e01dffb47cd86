// The Go clients. What a driver is told and answers: `matrix.py`.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	bradfitz "github.com/bradfitz/gomemcache/memcache"
	"github.com/couchbase/gomemcached"
	couchbase "github.com/couchbase/gomemcached/client"
	rainycape "github.com/rainycape/memcache"
)

const timeout = 30 * time.Second

// One call: keys and values as they are, and the numbers behind them.
type call struct {
	parts  []string
	number int
}

func (c call) key() string   { return c.parts[0] }
func (c call) value() []byte { return []byte(c.parts[1]) }

// What a client has, by name. An answer is nil for none, a bool, a uint64, a []byte or a map.
type client map[string]func(call) (any, error)

// A refusal that the library says with an error.
func yes(err error, refusals ...error) (any, error) {
	for _, refusal := range refusals {
		if errors.Is(err, refusal) {
			return false, nil
		}
	}
	return err == nil, err
}

func ofBradfitz(address string) client {
	library := bradfitz.New(address)
	library.Timeout = timeout
	held := map[string]*bradfitz.Item{}
	refusals := []error{bradfitz.ErrNotStored, bradfitz.ErrCacheMiss, bradfitz.ErrCASConflict}
	store := func(op func(*bradfitz.Item) error) func(call) (any, error) {
		return func(c call) (any, error) {
			return yes(op(&bradfitz.Item{Key: c.key(), Value: c.value(), Expiration: int32(c.number)}), refusals...)
		}
	}
	value := func(item *bradfitz.Item, err error) (any, error) {
		if errors.Is(err, bradfitz.ErrCacheMiss) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return item.Value, nil
	}
	count := func(number uint64, err error) (any, error) {
		if errors.Is(err, bradfitz.ErrCacheMiss) {
			return nil, nil
		}
		return number, err
	}
	return client{
		"set": store(library.Set), "add": store(library.Add), "replace": store(library.Replace),
		"append": store(library.Append), "prepend": store(library.Prepend),
		"get": func(c call) (any, error) { return value(library.Get(c.key())) },
		"gets": func(c call) (any, error) {
			item, err := library.Get(c.key())
			held[c.key()] = item
			return value(item, err)
		},
		"cas": func(c call) (any, error) {
			item := held[c.key()]
			item.Value, item.Expiration = c.value(), int32(c.number)
			return yes(library.CompareAndSwap(item), refusals...)
		},
		"incr":   func(c call) (any, error) { return count(library.Increment(c.key(), uint64(c.number))) },
		"decr":   func(c call) (any, error) { return count(library.Decrement(c.key(), uint64(c.number))) },
		"touch":  func(c call) (any, error) { return yes(library.Touch(c.key(), int32(c.number)), refusals...) },
		"gat":    func(c call) (any, error) { return value(library.GetAndTouch(c.key(), int32(c.number))) },
		"delete": func(c call) (any, error) { return yes(library.Delete(c.key()), refusals...) },
		"multiget": func(c call) (any, error) {
			items, err := library.GetMulti(c.parts)
			found := map[string][]byte{}
			for key, item := range items {
				found[key] = item.Value
			}
			return found, err
		},
		"flush": func(call) (any, error) { return yes(library.FlushAll()) },
	}
}

func ofRainycape(address string) (client, error) {
	library, err := rainycape.New(address)
	if err != nil {
		return nil, err
	}
	library.SetTimeout(timeout)
	held := map[string]*rainycape.Item{}
	refusals := []error{rainycape.ErrNotStored, rainycape.ErrCacheMiss, rainycape.ErrCASConflict}
	store := func(op func(*rainycape.Item) error) func(call) (any, error) {
		return func(c call) (any, error) {
			return yes(op(&rainycape.Item{Key: c.key(), Value: c.value(), Expiration: int32(c.number)}), refusals...)
		}
	}
	value := func(item *rainycape.Item, err error) (any, error) {
		if errors.Is(err, rainycape.ErrCacheMiss) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return item.Value, nil
	}
	count := func(number uint64, err error) (any, error) {
		if errors.Is(err, rainycape.ErrCacheMiss) {
			return nil, nil
		}
		return number, err
	}
	return client{
		"set": store(library.Set), "add": store(library.Add),
		"get": func(c call) (any, error) { return value(library.Get(c.key())) },
		"gets": func(c call) (any, error) {
			item, err := library.Get(c.key())
			held[c.key()] = item
			return value(item, err)
		},
		"cas": func(c call) (any, error) {
			item := held[c.key()]
			item.Value, item.Expiration = c.value(), int32(c.number)
			return yes(library.CompareAndSwap(item), refusals...)
		},
		"incr":   func(c call) (any, error) { return count(library.Increment(c.key(), uint64(c.number))) },
		"decr":   func(c call) (any, error) { return count(library.Decrement(c.key(), uint64(c.number))) },
		"delete": func(c call) (any, error) { return yes(library.Delete(c.key()), refusals...) },
		"multiget": func(c call) (any, error) {
			items, err := library.GetMulti(c.parts)
			found := map[string][]byte{}
			for key, item := range items {
				found[key] = item.Value
			}
			return found, err
		},
		// Zero would be sent as a time, and is one at which nothing happens on memcached: its own -1 sends none.
		"flush": func(call) (any, error) { return yes(library.Flush(-1)) },
	}, nil
}

func ofCouchbase(address string) (client, error) {
	library, err := couchbase.Connect("tcp", address)
	if err != nil {
		return nil, err
	}
	uniques := map[string]uint64{}
	// Its own connection, once closed, stays closed; so does a pool's, which opens another.
	healthy := func() error {
		if !library.IsHealthy() {
			library.Close()
			library, err = couchbase.Connect("tcp", address)
			return err
		}
		return nil
	}
	refused := func(response *gomemcached.MCResponse, err error) (any, error) {
		if response != nil {
			switch response.Status {
			case gomemcached.KEY_ENOENT, gomemcached.KEY_EEXISTS, gomemcached.NOT_STORED:
				return false, nil
			}
		}
		return err == nil, err
	}
	value := func(response *gomemcached.MCResponse, err error) (any, error) {
		if response != nil && response.Status == gomemcached.KEY_ENOENT {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return response.Body, nil
	}
	count := func(number uint64, err error) (any, error) {
		if gomemcached.IsNotFound(err) {
			return nil, nil
		}
		return number, err
	}
	const doNotCreate = -1
	// What has no call of its own is a request of one's own.
	send := func(opcode gomemcached.CommandCode, c call, extras []byte) (*gomemcached.MCResponse, error) {
		request := &gomemcached.MCRequest{Opcode: opcode, Extras: extras}
		if len(c.parts) > 0 {
			request.Key = []byte(c.key())
		}
		if len(c.parts) > 1 {
			request.Body = c.value()
		}
		return library.Send(request)
	}
	calls := client{
		"set": func(c call) (any, error) { return refused(library.Set(0, c.key(), 0, c.number, c.value())) },
		"add": func(c call) (any, error) { return refused(library.Add(0, c.key(), 0, c.number, c.value())) },
		"replace": func(c call) (any, error) {
			extras := binary.BigEndian.AppendUint32(make([]byte, 4), uint32(c.number))
			return refused(send(gomemcached.REPLACE, c, extras))
		},
		"append":  func(c call) (any, error) { return refused(library.Append(0, c.key(), c.value())) },
		"prepend": func(c call) (any, error) { return refused(send(gomemcached.PREPEND, c, nil)) },
		"get":     func(c call) (any, error) { return value(library.Get(0, c.key())) },
		"gets": func(c call) (any, error) {
			response, err := library.Get(0, c.key())
			if err == nil {
				uniques[c.key()] = response.Cas
			}
			return value(response, err)
		},
		"cas": func(c call) (any, error) {
			return refused(library.SetCas(0, c.key(), 0, c.number, uniques[c.key()], c.value()))
		},
		"incr": func(c call) (any, error) { return count(library.Incr(0, c.key(), uint64(c.number), 0, doNotCreate)) },
		"decr": func(c call) (any, error) { return count(library.Decr(0, c.key(), uint64(c.number), 0, doNotCreate)) },
		"gat":  func(c call) (any, error) { return value(library.GetAndTouch(0, c.key(), c.number)) },
		"delete": func(c call) (any, error) {
			return refused(library.Del(0, c.key()))
		},
		"multiget": func(c call) (any, error) {
			responses := map[string]*gomemcached.MCResponse{}
			err := library.GetBulk(0, c.parts, responses, nil)
			found := map[string][]byte{}
			for key, response := range responses {
				found[key] = response.Body
			}
			return found, err
		},
		"stats": func(call) (any, error) {
			stats, err := library.StatsMap("")
			found := map[string][]byte{}
			for name, stat := range stats {
				found[name] = []byte(stat)
			}
			return found, err
		},
		"version": func(c call) (any, error) { return value(send(gomemcached.VERSION, c, nil)) },
		"flush":   func(c call) (any, error) { return refused(send(gomemcached.FLUSH, c, nil)) },
		// A quiet command has no answer of its own: what comes before the answer to a noop would be an error.
		"quiet_set": func(c call) (any, error) {
			extras := binary.BigEndian.AppendUint32(make([]byte, 4), uint32(c.number))
			request := &gomemcached.MCRequest{Opcode: gomemcached.SETQ, Key: []byte(c.key()), Extras: extras, Body: c.value()}
			return nil, quietly(library, request)
		},
		"quiet_delete": func(c call) (any, error) {
			return nil, quietly(library, &gomemcached.MCRequest{Opcode: gomemcached.DELETEQ, Key: []byte(c.key())})
		},
	}
	for op, plain := range calls {
		plain := plain
		calls[op] = func(c call) (any, error) {
			if err := healthy(); err != nil {
				return nil, err
			}
			return plain(c)
		}
	}
	return calls, nil
}

func quietly(library *couchbase.Client, request *gomemcached.MCRequest) error {
	if err := library.Transmit(request); err != nil {
		return err
	}
	response, err := library.Send(&gomemcached.MCRequest{Opcode: gomemcached.NOOP})
	if err == nil && response.Opcode != gomemcached.NOOP {
		err = fmt.Errorf("answered: %v", response)
	}
	return err
}

func parse(op string, fields []string) (call, error) {
	texts := len(fields)
	switch op {
	case "incr", "decr", "touch", "gat":
		texts = 1
	case "set", "add", "replace", "cas", "quiet_set":
		texts = 2
	}
	var c call
	for index, field := range fields {
		if index >= texts {
			number, err := strconv.Atoi(field)
			if err != nil {
				return c, err
			}
			c.number = number
			continue
		}
		part, err := base64.StdEncoding.DecodeString(field)
		if err != nil {
			return c, err
		}
		c.parts = append(c.parts, string(part))
	}
	return c, nil
}

func answer(found any) string {
	encode := base64.StdEncoding.EncodeToString
	switch found := found.(type) {
	case nil:
		return "none"
	case bool:
		return strconv.FormatBool(found)
	case uint64:
		return fmt.Sprintf("number\t%d", found)
	case []byte:
		return "value\t" + encode(found)
	case map[string][]byte:
		said := "pairs"
		for key, value := range found {
			said += "\t" + encode([]byte(key)) + "\t" + encode(value)
		}
		return said
	}
	return fmt.Sprintf("error\t%T", found)
}

func main() {
	name, address := os.Args[1], os.Args[2]+":"+os.Args[3]
	var calls client
	var err error
	switch name {
	case "gomemcache":
		calls = ofBradfitz(address)
	case "rainycape/memcache":
		calls, err = ofRainycape(address)
	case "couchbase/gomemcached":
		calls, err = ofCouchbase(address)
	default:
		err = fmt.Errorf("no client %q", name)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	input := bufio.NewReaderSize(os.Stdin, 1<<16)
	for {
		line, err := input.ReadString('\n')
		if err != nil {
			return
		}
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		said := "unsupported"
		if does, has := calls[fields[0]]; has {
			var found any
			c, err := parse(fields[0], fields[1:])
			if err == nil {
				found, err = does(c)
			}
			switch {
			case err != nil:
				said = "error\t" + strings.NewReplacer("\n", " ", "\t", " ").Replace(err.Error())
				fmt.Fprintln(os.Stderr, said)
			case strings.HasPrefix(fields[0], "quiet_"):
				said = "done"
			default:
				said = answer(found)
			}
		}
		fmt.Println(said)
	}
}
