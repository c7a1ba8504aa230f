// Mono's WCF as one side of messages whose key is encrypted to the certificate of the service.
//
// Standard input has blocks of lines NAME=VALUE; an empty line ends each. Each step is answered by one JSON object in a line, and
// the last of them for one block is {"step": "end"}.
//
//   role        call, or serve until standard input ends
//   url         where to post, or where to serve
//   credential  username, certificate or none
//   server      file of the service's certificate; of a service with its key, PKCS #12 with the password "key"
//   user, password, and certificate, a PKCS #12 file: of the client
//   calls       how many
//   size        octets of the text of a call
//   one_way     true for calls without a reply
//   negotiate, establish: true for these settings of the binding
//
// "call" prints {"step": "call", "action": …, "text": …}, {"step": "call", "fault": text} or {"step": "call", "error": exception}.
// "serve" prints {"step": "ready"}, and answers with the body of the call.

using System;
using System.Collections.Generic;
using System.IdentityModel.Selectors;
using System.IdentityModel.Tokens;
using System.IO;
using System.Security.Cryptography.X509Certificates;
using System.ServiceModel;
using System.ServiceModel.Channels;
using System.ServiceModel.Description;
using System.ServiceModel.Security;
using System.Text;
using System.Xml;

[ServiceContract(Namespace = "urn:echo")]
public interface IEcho {
    [OperationContract(Action = "urn:echo", ReplyAction = "urn:echoResponse")]
    Message Call(Message message);

    [OperationContract(Action = "urn:tell", IsOneWay = true)]
    void Tell(Message message);
}

public class Echo : IEcho {
    public Message Call(Message message) {
        var body = message.GetReaderAtBodyContents().ReadOuterXml();
        return Message.CreateMessage(message.Version, "urn:echoResponse", XmlReader.Create(new StringReader(body)));
    }

    public void Tell(Message message) {}
}

public class OneUser : UserNamePasswordValidator {
    public string User, Password;

    public override void Validate(string user, string password) {
        if (user != User || password != Password) {
            throw new SecurityTokenValidationException("wrong password");
        }
    }
}

public class MonoWcf {
    const string KeyPassword = "key";
    readonly Dictionary<string, string> settings;

    MonoWcf(Dictionary<string, string> settings) {
        this.settings = settings;
    }

    string Get(string name) {
        string value;
        return settings.TryGetValue(name, out value) ? value : null;
    }

    WSHttpBinding Binding() {
        var binding = new WSHttpBinding(SecurityMode.Message);
        var message = binding.Security.Message;
        message.NegotiateServiceCredential = Get("negotiate") == "true";
        message.EstablishSecurityContext = Get("establish") == "true";
        switch (Get("credential")) {
        case "username": message.ClientCredentialType = MessageCredentialType.UserName; break;
        case "certificate": message.ClientCredentialType = MessageCredentialType.Certificate; break;
        default: message.ClientCredentialType = MessageCredentialType.None; break;
        }
        return binding;
    }

    void Call() {
        var service = new X509Certificate2(Get("server"));
        var address = new EndpointAddress(new Uri(Get("url")), new X509CertificateEndpointIdentity(service));
        var factory = new ChannelFactory<IEcho>(Binding(), address);
        var credentials = factory.Credentials;
        credentials.ServiceCertificate.DefaultCertificate = service;
        credentials.ServiceCertificate.Authentication.CertificateValidationMode = X509CertificateValidationMode.None;
        if (Get("user") != null) {
            credentials.UserName.UserName = Get("user");
            credentials.UserName.Password = Get("password");
        }
        if (Get("certificate") != null) {
            credentials.ClientCertificate.Certificate = new X509Certificate2(Get("certificate"), KeyPassword);
        }
        IEcho channel;
        try {
            channel = factory.CreateChannel();
        } catch (Exception error) {
            Print("call", "error", error.GetType().Name + ": " + error.Message);
            return;
        }
        for (var n = 1; n <= int.Parse(Get("calls")); n++) {
            CallOnce(channel, n);
        }
    }

    void CallOnce(IEcho channel, int n) {
        var text = Get("size") == null ? "call " + n + " & more" : new string('x', int.Parse(Get("size")));
        var echo = XmlReader.Create(new StringReader("<Echo xmlns=\"urn:echo\">" + text.Replace("&", "&amp;") + "</Echo>"));
        try {
            if (Get("one_way") == "true") {
                channel.Tell(Message.CreateMessage(MessageVersion.Soap12WSAddressing10, "urn:tell", echo));
                Print("call", "one_way", "done");
                return;
            }
            var reply = channel.Call(Message.CreateMessage(MessageVersion.Soap12WSAddressing10, "urn:echo", echo));
            if (reply.IsFault) {
                var fault = MessageFault.CreateFault(reply, 1 << 16);
                Print("call", "fault", fault.Reason.GetMatchingTranslation().Text);
                return;
            }
            var body = new XmlDocument();
            body.Load(reply.GetReaderAtBodyContents());
            Print("call", "action", reply.Headers.Action, "text", body.InnerText);
        } catch (FaultException fault) {
            Print("call", "fault", fault.Message);
        } catch (Exception error) {
            Print("call", "error", error.GetType().Name + ": " + error.Message);
        }
    }

    void Serve() {
        var host = new ServiceHost(typeof(Echo), new Uri(Get("url")));
        host.AddServiceEndpoint(typeof(IEcho), Binding(), "");
        var credentials = new ServiceCredentials();
        host.Description.Behaviors.Add(credentials);
        credentials.ServiceCertificate.Certificate = new X509Certificate2(Get("server"), KeyPassword);
        credentials.ClientCertificate.Authentication.CertificateValidationMode = X509CertificateValidationMode.None;
        if (Get("user") != null) {
            credentials.UserNameAuthentication.UserNamePasswordValidationMode = UserNamePasswordValidationMode.Custom;
            credentials.UserNameAuthentication.CustomUserNamePasswordValidator =
                new OneUser { User = Get("user"), Password = Get("password") };
        }
        host.Open();
        Print("ready");
        while (Console.In.ReadLine() != null) {}
        Environment.Exit(0);
    }

    static string Quoted(string text) {
        var quoted = new StringBuilder("\"");
        foreach (var c in text) {
            if (c == '"' || c == '\\') {
                quoted.Append('\\');
            }
            quoted.Append(c < ' ' ? ' ' : c);
        }
        return quoted.Append('"').ToString();
    }

    static void Print(string step, params string[] more) {
        var line = new StringBuilder("{\"step\": " + Quoted(step));
        for (var n = 0; n < more.Length; n += 2) {
            line.Append(", " + Quoted(more[n]) + ": " + Quoted(more[n + 1]));
        }
        Console.WriteLine(line.Append("}"));
        Console.Out.Flush();
    }

    public static void Main() {
        var settings = new Dictionary<string, string>();
        for (string line; (line = Console.In.ReadLine()) != null;) {
            var at = line.IndexOf('=');
            if (at > 0) {
                settings[line.Substring(0, at)] = line.Substring(at + 1);
                continue;
            }
            var peer = new MonoWcf(settings);
            settings = new Dictionary<string, string>();
            if (peer.Get("role") == "serve") {
                peer.Serve();
            } else {
                peer.Call();
            }
            Print("end");
        }
        // Threads of WCF would go on.
        Environment.Exit(0);
    }
}
